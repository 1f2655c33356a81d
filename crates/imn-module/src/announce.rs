//! Announcements, signed where there are credentials.

use async_nats::HeaderMap;
use imn_contract::{
    Encoding, Message, encode, header,
    latest::{Announce, AnnounceEvent},
    subject,
};
use imn_runtime::{
    credential::Credentials,
    nats::{self, Client},
};

/// Introduces one instance.
pub(crate) struct Announcer {
    template: Announce,
    credentials: Option<Credentials>,
}

impl Announcer {
    /// `creds` is the text of a credentials file; its key signs.
    pub(crate) fn new(template: Announce, creds: Option<&str>) -> Self {
        let credentials = creds.and_then(|text| {
            Credentials::parse(text)
                .inspect_err(|error| tracing::warn!(%error, "announcements go unsigned"))
                .ok()
        });
        Self { template, credentials }
    }

    pub(crate) async fn announce(
        &self,
        client: &Client,
        event: AnnounceEvent,
        slots: u32,
    ) -> nats::Result<()> {
        let message = Announce { event, slots, ..self.template.clone() };
        let payload = encode(&message, Encoding::Json).map_err(|source| nats::Error::Encode {
            operation: "announce",
            subject: subject::ANNOUNCE.to_owned(),
            source,
        })?;
        let mut headers = HeaderMap::new();
        headers.insert(header::SCHEMA, Announce::schema());
        headers.insert(header::CONTENT_TYPE, Encoding::Json.content_type());
        if let Some(credentials) = &self.credentials
            && let Ok(signature) = credentials.sign(&payload)
        {
            headers.insert(header::NKEY, credentials.public_key());
            headers.insert(header::SIGNATURE, signature);
        }
        client.publish_bytes(subject::ANNOUNCE, payload, headers).await
    }
}
