//! Who may do what on NATS: the keys of a network in operator mode, and credentials scoped to a role.
//!
//! An operator vouches for accounts, an account for users; each is an ed25519 key, and each vouching is a JWT. The
//! permissions stand in the user's JWT, so that the server needs no list of users.

mod jwt;
mod role;
mod signer;

use std::{
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use data_encoding::BASE64URL_NOPAD;
use imn_contract::AgentId;
use nkeys::{KeyPair, KeyPairType};

use crate::file;

pub use role::{Permissions, Role};
pub use signer::{Signer, is_signer};

/// Subject, in the system account, on which a nats-server with a full resolver takes an account's new JWT.
pub const UPDATE_ACCOUNT: &str = "$SYS.REQ.CLAIMS.UPDATE";
/// How long a user of the system account is valid: for one errand.
const ERRAND: Duration = Duration::from_mins(5);

/// Name of the account in which everything happens.
const ACCOUNT: &str = "IMN";

/// Why keys or credentials could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the key directory.
    #[error(transparent)]
    File(#[from] file::Error),
    /// A key is no key, or one of another kind.
    #[error("{operation} {what}: {message}")]
    Key {
        /// What was tried.
        operation: &'static str,
        /// Which key.
        what: String,
        /// What is wrong.
        message: String,
    },
}

impl Error {
    fn key(operation: &'static str, what: impl Into<String>) -> impl FnOnce(nkeys::error::Error) -> Self {
        let what = what.into();
        move |error| Self::Key { operation, what, message: error.to_string() }
    }

    fn unfit(operation: &'static str, what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Key { operation, what: what.into(), message: message.into() }
    }
}

/// What an authority signs for the key of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouching {
    /// Its JWT.
    pub jwt: String,
    /// An agent's JWT for its connection to the queues of jobs ([`Role::Queue`]).
    pub queue_jwt: Option<String>,
}

impl From<String> for Vouching {
    fn from(jwt: String) -> Self {
        Self { jwt, queue_jwt: None }
    }
}

/// The keys of a network: its operator, its system account and the account `IMN`, in which everything happens.
pub struct Authority {
    operator: KeyPair,
    account: KeyPair,
    system: KeyPair,
    operator_jwt: String,
    system_jwt: String,
    /// Made anew by each revocation.
    account_jwt: RwLock<String>,
    directory: PathBuf,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("account", &self.account.public_key())
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads the keys from a directory; what is not there yet is made and written (0600).
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Key`] for a file that holds no key.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        file::create_private_dir(directory)?;
        let operator = key(directory, "operator", KeyPairType::Operator)?;
        let system = key(directory, "system", KeyPairType::Account)?;
        let account = key(directory, "account", KeyPairType::Account)?;
        let (system_id, account_id) = (system.public_key(), account.public_key());
        let token = |name, subject: &str, make: &dyn Fn() -> Result<String, Error>| {
            token(&directory.join(format!("{name}.jwt")), &operator.public_key(), subject, make)
        };
        let operator_jwt =
            token("operator", &operator.public_key(), &|| jwt::operator(&operator, &system_id))?;
        let system_jwt =
            token("system", &system_id, &|| jwt::account(&operator, &system_id, "SYS", jwt::Limits::SYSTEM))?;
        let account_jwt = token("account", &account_id, &|| {
            jwt::account(&operator, &account_id, ACCOUNT, jwt::Limits::FULL)
        })?;
        let account_jwt = RwLock::new(account_jwt);
        let directory = directory.to_owned();
        Ok(Self { operator, account, system, operator_jwt, system_jwt, account_jwt, directory })
    }

    /// The operator's JWT, which a server trusts.
    pub fn operator_jwt(&self) -> &str {
        &self.operator_jwt
    }

    /// Public key and JWT of the system account.
    pub fn system_account(&self) -> (String, &str) {
        (self.system.public_key(), &self.system_jwt)
    }

    /// Public key and JWT of the account `IMN`.
    pub fn account(&self) -> (String, String) {
        let jwt = self.account_jwt.read().unwrap_or_else(PoisonError::into_inner);
        (self.account.public_key(), jwt.clone())
    }

    /// Makes a user of the system account, good for telling a nats-server of the account's new JWT at once.
    ///
    /// # Errors
    /// [`Error::Key`] when signing fails.
    pub fn system_user(&self) -> Result<Credentials, Error> {
        let user = Applicant::default();
        let key = user.public_key();
        let inbox = format!("_INBOX_{key}.>");
        let jwt = jwt::system_user(&self.system, &key, &inbox, now_s() + ERRAND.as_secs())?;
        user.accept(jwt.into())
    }

    /// Revokes keys of users: the account's JWT names them from now on, and is written. Servers are to be told.
    ///
    /// # Errors
    /// [`Error::Key`] when signing fails, [`Error::File`] when it cannot be written; then nothing has changed.
    pub fn revoke<'a>(&self, users: impl IntoIterator<Item = &'a str>) -> Result<(), Error> {
        let mut current = self.account_jwt.write().unwrap_or_else(PoisonError::into_inner);
        let claims = claims(&current).unwrap_or_default();
        let before = jwt::revocations(&claims);
        let mut revocations = before.clone();
        for user in users {
            revocations.entry(user.to_owned()).or_insert_with(now_s);
        }
        if revocations == before {
            return Ok(());
        }
        // Of two JWTs of an account a server keeps the one issued later, and it counts in seconds.
        let issued = now_s().max(claims["iat"].as_u64().unwrap_or_default() + 1);
        let (id, full) = (self.account.public_key(), jwt::Limits::FULL);
        let text = jwt::account_without(&self.operator, &id, ACCOUNT, full, &revocations, issued)?;
        file::write_atomic(&self.directory.join("account.jwt"), format!("{text}\n").as_bytes())?;
        *current = text;
        Ok(())
    }

    /// Whether any key was ever revoked.
    pub fn has_revoked(&self) -> bool {
        claims(&self.account().1).is_some_and(|claims| !jwt::revocations(&claims).is_empty())
    }

    /// Whether the key of these credentials was revoked.
    pub fn has_revoked_key(&self, user: &str) -> bool {
        claims(&self.account().1).is_some_and(|claims| jwt::revocations(&claims).contains_key(user))
    }

    /// Makes a user of this role with a key of its own, valid for `lifetime`, for ever without one.
    ///
    /// # Errors
    /// [`Error::Key`] when signing fails.
    pub fn issue(&self, role: &Role, lifetime: Option<Duration>) -> Result<Credentials, Error> {
        let user = Applicant::default();
        let vouching = self.vouch(role, &user.public_key(), lifetime)?;
        user.accept(vouching)
    }

    /// Whether the account of this authority has vouched for these credentials.
    pub fn has_issued(&self, credentials: &Credentials) -> bool {
        claims(&credentials.jwt).is_some_and(|claims| claims["iss"] == self.account.public_key())
    }

    /// Vouches for the key of credentials anew: with what the role may do now, for `lifetime` from now.
    ///
    /// # Errors
    /// [`Error::Key`] when signing fails.
    pub fn renew(
        &self,
        credentials: &Credentials,
        role: &Role,
        lifetime: Option<Duration>,
    ) -> Result<Credentials, Error> {
        credentials.with(self.vouch(role, &credentials.public_key(), lifetime)?)
    }

    /// Signs for a public key whose seed its owner keeps: enrollment and renewal.
    ///
    /// # Errors
    /// [`Error::Key`] when `user` is no public key of a user.
    pub fn vouch(&self, role: &Role, user: &str, lifetime: Option<Duration>) -> Result<Vouching, Error> {
        let known = KeyPair::from_public_key(user).map_err(Error::key("vouch for", user))?;
        if known.key_pair_type() != KeyPairType::User {
            return Err(Error::unfit("vouch for", user, "this is no public key of a user"));
        }
        let expires = lifetime.map(|lifetime| now_s() + lifetime.as_secs().max(1));
        let sign =
            |role: &Role| jwt::user(&self.account, user, &role.to_string(), &role.permissions(), expires);
        let queue_jwt = role.queue().as_ref().map(sign).transpose()?;
        Ok(Vouching { jwt: sign(role)?, queue_jwt })
    }
}

/// A key of a user whose JWT is still to come.
pub struct Applicant {
    user: KeyPair,
}

impl std::fmt::Debug for Applicant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applicant").field("user", &self.user.public_key()).finish()
    }
}

impl Default for Applicant {
    fn default() -> Self {
        Self { user: KeyPair::new_user() }
    }
}

impl Applicant {
    /// What an authority is to vouch for.
    pub fn public_key(&self) -> String {
        self.user.public_key()
    }

    /// Signs bytes, to show that the key is here.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn sign(&self, bytes: &[u8]) -> Result<String, Error> {
        sign(&self.user, bytes)
    }

    /// Takes what an authority has signed.
    ///
    /// # Errors
    /// [`Error::Key`] when it is no JWT, or one of another key.
    pub fn accept(self, vouching: Vouching) -> Result<Credentials, Error> {
        const OPERATION: &str = "take the JWT of";
        let name = self.public_key();
        let read = |jwt: &str| {
            let claims = claims(jwt).ok_or_else(|| Error::unfit(OPERATION, &name, "it is unreadable"))?;
            if claims["sub"] == name {
                Ok(claims)
            } else {
                Err(Error::unfit(OPERATION, &name, "it is of another key"))
            }
        };
        let Vouching { jwt, queue_jwt } = vouching;
        let inbox_prefix = inbox_prefix(&read(&jwt)?);
        queue_jwt.as_deref().map(read).transpose()?;
        let seed = self.user.seed().map_err(Error::key("write the seed of", &name))?;
        Ok(Credentials { user: self.user, seed, jwt, queue_jwt, inbox_prefix })
    }
}

/// A user's key and JWT: what a connection needs.
pub struct Credentials {
    user: KeyPair,
    seed: String,
    jwt: String,
    queue_jwt: Option<String>,
    inbox_prefix: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user.public_key()).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the text of a credentials file.
    ///
    /// # Errors
    /// [`Error::Key`] when it holds no JWT or no seed of a user.
    pub fn parse(text: &str) -> Result<Self, Error> {
        const OPERATION: &str = "read";
        let unfit = |message: &str| Error::unfit(OPERATION, "credentials", message);
        let mut blocks = text.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
        let (mut jwt, mut seed, mut queue_jwt) = (None, None, None);
        while let Some(line) = blocks.next() {
            if line.starts_with("-----BEGIN NATS USER JWT") {
                jwt = blocks.next().map(str::to_owned);
            } else if line.starts_with("-----BEGIN USER NKEY SEED") {
                seed = blocks.next().map(str::to_owned);
            } else if line.starts_with("-----BEGIN IMN QUEUE JWT") {
                queue_jwt = blocks.next().map(str::to_owned);
            }
        }
        let jwt = jwt.ok_or_else(|| unfit("they hold no NATS USER JWT"))?;
        let seed = seed.ok_or_else(|| unfit("they hold no USER NKEY SEED"))?;
        let user = KeyPair::from_seed(&seed).map_err(Error::key(OPERATION, "credentials"))?;
        if user.key_pair_type() != KeyPairType::User {
            return Err(unfit("the seed is not that of a user"));
        }
        let claims = claims(&jwt).ok_or_else(|| unfit("the JWT is unreadable"))?;
        Ok(Self { inbox_prefix: inbox_prefix(&claims), user, seed, jwt, queue_jwt })
    }

    /// The text of a credentials file, as any NATS client reads it.
    pub fn text(&self) -> String {
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\n\
             NKEY Seed printed below can be used to sign and prove identity.\n\
             NKEYs are sensitive and should be treated as secrets.\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n\n\
             *************************************************************\n",
            self.jwt, self.seed
        );
        match &self.queue_jwt {
            Some(jwt) => {
                format!("{text}\n-----BEGIN IMN QUEUE JWT-----\n{jwt}\n------END IMN QUEUE JWT------\n")
            }
            None => text,
        }
    }

    /// The same key with the rights of an agent's connection to the queues of jobs; `None`: nobody has given it such.
    pub fn of_queue(&self) -> Option<Self> {
        let jwt = self.queue_jwt.clone()?;
        self.with(jwt.into()).ok()
    }

    /// The user's public key.
    pub fn public_key(&self) -> String {
        self.user.public_key()
    }

    /// The prefix under which this user's inboxes must be.
    pub fn inbox_prefix(&self) -> &str {
        &self.inbox_prefix
    }

    /// When they end, in seconds since the Unix epoch; `None`: never.
    pub fn expires_s(&self) -> Option<u64> {
        claims(&self.jwt)?["exp"].as_u64()
    }

    /// Signs bytes, for the header `MMN-Signature`.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn sign(&self, bytes: &[u8]) -> Result<String, Error> {
        sign(&self.user, bytes)
    }

    /// The JWT, which is no secret.
    pub fn jwt(&self) -> &str {
        &self.jwt
    }

    /// Signs a server's nonce, as it is to be sent.
    pub(crate) fn prove(&self, nonce: &[u8]) -> Result<Vec<u8>, Error> {
        self.user.sign(nonce).map_err(Error::key("sign with", self.user.public_key()))
    }

    /// The same key with what an authority has signed since.
    ///
    /// # Errors
    /// [`Error::Key`] when it is no JWT, or one of another key.
    pub fn with(&self, vouching: Vouching) -> Result<Self, Error> {
        self.applicant()?.accept(vouching)
    }

    /// The key alone, for a JWT that is still to come.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn applicant(&self) -> Result<Applicant, Error> {
        let user = KeyPair::from_seed(&self.seed).map_err(Error::key("read", "credentials"))?;
        Ok(Applicant { user })
    }

    /// Whether they say what the role may do, as this program knows it.
    pub fn permit(&self, role: &Role) -> bool {
        let permits = |jwt: &str, role: &Role| {
            claims(jwt).is_some_and(|claims| jwt::permits(&claims, &role.permissions()))
        };
        permits(&self.jwt, role)
            && role
                .queue()
                .is_none_or(|queue| self.queue_jwt.as_deref().is_some_and(|jwt| permits(jwt, &queue)))
    }

    /// Whether they have ended.
    pub fn have_expired(&self) -> bool {
        self.expires_s().is_some_and(|end| end <= now_s())
    }

    /// How long until half of their life is over, when they are to be renewed; `None`: they do not end.
    pub fn half_life(&self) -> Option<Duration> {
        let claims = claims(&self.jwt)?;
        let (issued, end) = (claims["iat"].as_u64()?, claims["exp"].as_u64()?);
        Some(Duration::from_secs((issued + end.saturating_sub(issued) / 2).saturating_sub(now_s())))
    }

    /// How long they are good for in all; `None`: they do not end.
    pub fn lifetime(&self) -> Option<Duration> {
        let claims = claims(&self.jwt)?;
        Some(Duration::from_secs(claims["exp"].as_u64()?.saturating_sub(claims["iat"].as_u64()?)))
    }
}

fn sign(user: &KeyPair, bytes: &[u8]) -> Result<String, Error> {
    let signature = user.sign(bytes).map_err(Error::key("sign with", user.public_key()))?;
    Ok(BASE64URL_NOPAD.encode(&signature))
}

/// The prefix of the inboxes that a user may read.
fn inbox_prefix(claims: &serde_json::Value) -> String {
    let allowed = claims["nats"]["sub"]["allow"].as_array().into_iter().flatten();
    allowed
        .filter_map(|subject| subject.as_str()?.strip_suffix(".>"))
        .find(|subject| subject.starts_with("_INBOX"))
        .unwrap_or("_INBOX")
        .to_owned()
}

/// Whether `signature` is that of `public_key` over `bytes`.
pub fn verify(public_key: &str, bytes: &[u8], signature: &str) -> bool {
    let Ok(signature) = BASE64URL_NOPAD.decode(signature.as_bytes()) else { return false };
    KeyPair::from_public_key(public_key).is_ok_and(|key| key.verify(bytes, &signature).is_ok())
}

/// What an agent signs to come in by a token: the token is of no use to whoever has another key.
pub fn enrollment_proof(nonce: &str, agent: &AgentId, public_key: &str, token: &str) -> String {
    format!("imn-enroll\n{nonce}\n{agent}\n{public_key}\n{token}")
}

/// What an agent signs to have its JWT renewed over HTTP.
pub fn renewal_proof(nonce: &str, agent: &AgentId, public_key: &str) -> String {
    format!("imn-renew\n{nonce}\n{agent}\n{public_key}")
}

/// The claims of a JWT, unverified.
fn claims(jwt: &str) -> Option<serde_json::Value> {
    let body = jwt.split('.').nth(1)?;
    serde_json::from_slice(&BASE64URL_NOPAD.decode(body.as_bytes()).ok()?).ok()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn key(directory: &Path, name: &str, kind: KeyPairType) -> Result<KeyPair, Error> {
    let path = directory.join(format!("{name}.nk"));
    let shown = path.display().to_string();
    if let Some(seed) = file::read_optional(&path)? {
        let unfit = |message: String| {
            let fix = "restore the file from a backup, or remove it for a new identity";
            Error::unfit("read the key", shown.clone(), format!("{message}; {fix}"))
        };
        let key = KeyPair::from_seed(seed.trim()).map_err(|error| unfit(error.to_string()))?;
        if key.key_pair_type() != kind {
            return Err(unfit("it is one of another kind".to_owned()));
        }
        return Ok(key);
    }
    let key = KeyPair::new(kind);
    let seed = key.seed().map_err(Error::key("write the key", shown))?;
    file::write_atomic(&path, format!("{seed}\n").as_bytes())?;
    Ok(key)
}

/// A JWT is made once: a later revocation lives in it and must outlast a restart. One of other keys is made anew.
fn token(
    path: &Path,
    issuer: &str,
    subject: &str,
    make: &dyn Fn() -> Result<String, Error>,
) -> Result<String, Error> {
    if let Some(text) = file::read_optional(path)?
        && let Some(claims) = claims(text.trim())
        && claims["iss"] == issuer
        && claims["sub"] == subject
    {
        return Ok(text.trim().to_owned());
    }
    let text = make()?;
    file::write_atomic(path, format!("{text}\n").as_bytes())?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn agent() -> Role {
        Role::Agent { agent: AgentId::new("lon1").unwrap() }
    }

    #[test]
    fn keys_are_made_once_and_stay() {
        let directory = tempfile::tempdir().unwrap();
        let first = Authority::open(directory.path()).unwrap();
        let second = Authority::open(directory.path()).unwrap();
        assert_eq!(first.account(), second.account());
        assert_eq!(first.system_account(), second.system_account());
        assert_eq!(first.operator_jwt(), second.operator_jwt());
        // A key that is lost is made anew, and vouched for.
        std::fs::remove_file(directory.path().join("account.nk")).unwrap();
        let third = Authority::open(directory.path()).unwrap();
        assert_ne!(third.account().0, first.account().0);
        assert_eq!(claims(&third.account().1).unwrap()["sub"], third.account().0);
        assert_eq!(third.system_account(), first.system_account());
        std::fs::write(directory.path().join("account.nk"), "nonsense").unwrap();
        let error = Authority::open(directory.path()).unwrap_err().to_string();
        assert!(error.starts_with("read the key ") && error.contains("account.nk"), "{error}");
        // A key of another kind under this name is no less wrong.
        std::fs::copy(directory.path().join("operator.nk"), directory.path().join("account.nk")).unwrap();
        assert!(Authority::open(directory.path()).unwrap_err().to_string().contains("another kind"));
    }

    #[test]
    fn credentials_are_read_back_and_sign() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open(directory.path()).unwrap();
        let issued = authority.issue(&agent(), Some(Duration::from_hours(1))).unwrap();
        let read = Credentials::parse(&issued.text()).unwrap();
        assert_eq!(read.public_key(), issued.public_key());
        assert_eq!(read.inbox_prefix(), "_INBOX_agent.lon1");
        assert!(read.expires_s().unwrap() > now_s() + 3500);
        assert_eq!(authority.issue(&agent(), None).unwrap().expires_s(), None);
        let signature = read.sign(b"hello").unwrap();
        assert!(verify(&issued.public_key(), b"hello", &signature));
        assert!(!verify(&issued.public_key(), b"hallo", &signature));
        let another = authority.issue(&agent(), None).unwrap();
        assert!(!verify(&another.public_key(), b"hello", &signature));
        assert!(!verify("nobody", b"hello", "*"));
        assert!(!format!("{issued:?}").contains("SU"), "no seed is shown");
        // The queues have rights of their own, and nobody else has such.
        let queue = read.of_queue().unwrap();
        assert!(queue.permit(&Role::Queue { agent: AgentId::new("lon1").unwrap() }));
        assert_eq!((queue.public_key(), queue.inbox_prefix()), (read.public_key(), read.inbox_prefix()));
        assert!(authority.issue(&Role::Viewer, None).unwrap().of_queue().is_none());
        let without = read.with(read.jwt().to_owned().into()).unwrap();
        assert!(
            read.permit(&agent()) && !without.permit(&agent()),
            "an agent is to ask for those of its queues"
        );
    }

    #[test]
    fn revocations_are_kept_and_each_makes_a_later_account() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open(directory.path()).unwrap();
        assert!(!authority.has_revoked());
        let issued = |authority: &Authority| claims(&authority.account().1).unwrap()["iat"].as_u64().unwrap();
        let first = issued(&authority);
        authority.revoke(["UA", "UB"]).unwrap();
        authority.revoke(["UC"]).unwrap();
        assert!(issued(&authority) >= first + 2, "a server tells them apart by the second");
        let account = authority.account();
        authority.revoke(["UA"]).unwrap();
        assert_eq!(authority.account(), account, "nothing new");
        let reopened = Authority::open(directory.path()).unwrap();
        assert_eq!(reopened.account(), account);
        assert!(["UA", "UB", "UC"].iter().all(|key| reopened.has_revoked_key(key)));
        assert!(!reopened.has_revoked_key("UD"));
    }

    #[test]
    fn a_renewed_jwt_is_of_the_same_key() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open(directory.path()).unwrap();
        let issued = authority.issue(&agent(), Some(Duration::from_secs(100))).unwrap();
        assert!(issued.half_life().unwrap() <= Duration::from_secs(50) && !issued.have_expired());
        let renewed = authority.renew(&issued, &agent(), Some(Duration::from_secs(1000))).unwrap();
        assert_eq!(renewed.public_key(), issued.public_key());
        assert_eq!(renewed.lifetime(), Some(Duration::from_secs(1000)));
        assert!(renewed.permit(&agent()) && !renewed.permit(&Role::Viewer));
        let other = authority.issue(&agent(), None).unwrap();
        assert_eq!(other.half_life(), None);
        assert!(issued.with(other.jwt().to_owned().into()).unwrap_err().to_string().contains("another key"));
    }

    #[test]
    fn only_a_user_is_vouched_for() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open(directory.path()).unwrap();
        let account = authority.account().0;
        assert!(authority.vouch(&agent(), &account, None).unwrap_err().to_string().contains("no public key"));
        assert!(authority.vouch(&agent(), "U123", None).is_err());
    }

    #[test]
    fn many_texts_are_no_credentials_of_ours() {
        let pieces = [
            "-----BEGIN NATS USER JWT-----",
            "-----BEGIN USER NKEY SEED-----",
            "------END NATS USER JWT------",
            "\n",
            "\r\n",
            " ",
            "eyJ0eXAiOiJKV1QifQ",
            ".",
            "eyJzdWIiOiJVIn0",
            "e30",
            "e",
            "=",
            "SU",
            "UA",
            "\u{e4}",
            "\0",
        ];
        for text in imn_testkit::hostile::texts(&pieces) {
            if let Ok(credentials) = Credentials::parse(&text) {
                assert!(Credentials::parse(&credentials.text()).is_ok(), "{text:?}");
            }
            let _ = claims(&text);
            assert!(!verify(&text, b"bytes", &text));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_credentials_or_a_worded_error(text in "(-----BEGIN (NATS USER JWT|USER NKEY SEED)-----\n?|[ -~]{0,40}\n){0,6}") {
            let _ = Credentials::parse(&text);
        }
    }
}
