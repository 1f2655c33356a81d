//! From a URL to an outcome, one redirect after the other.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, COOKIE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use url::{Host, Origin, Url};

use super::error::{Cause, Error};
use super::exchange::{Exchanged, Manner, exchange, is_redirect};
use super::outcome::{Hop, Outcome, Phase};
use super::resolve::{choose, resolve};
use super::spec::{Spec, Version};
use crate::dial::{self, Floor};
use crate::outcome::Timestamp;
use crate::tls::{self, Client, Trust};

const OWN_USER_AGENT: &str = concat!("imn/", env!("CARGO_PKG_VERSION"));

/// Measures URLs in one manner, any number at once.
#[derive(Debug)]
pub struct Engine {
    spec: Spec,
    tls: Client,
    floor: Floor,
}

/// What the next request of a measurement is.
struct Next {
    url: Url,
    method: Method,
    /// Send the body of the spec.
    body: bool,
    /// Send the spec's secrets: only to where the measurement began.
    secrets: bool,
}

impl Engine {
    /// An engine that believes `trust`; one that is `insecure` takes any certificate, and tells its verdict.
    pub fn new(spec: Spec, trust: Trust, insecure: bool) -> Self {
        let protocols: &[&str] = match spec.version {
            Version::Any => &["h2", "http/1.1"],
            Version::Http1 => &["http/1.1"],
            Version::Http2 => &["h2"],
        };
        Self { tls: Client::new(trust, insecure).with_alpn(protocols), spec, floor: Floor::default() }
    }

    /// How this engine measures.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Measures a URL. `on_phase` is told of each phase of each request once it is over.
    pub async fn measure(&self, url: &Url, mut on_phase: impl FnMut(&Hop, Phase) + Send) -> Outcome {
        let (began, begin) = (Timestamp::now(), Instant::now());
        let deadline = begin + self.spec.timeout;
        let (mut hops, mut unmet) = (Vec::new(), Vec::new());
        let follow = self.follow(url, deadline, &mut hops, &mut unmet, &mut on_phase);
        let done = timeout_at(deadline.into(), follow).await;
        let elapsed = begin.elapsed().min(self.spec.timeout);
        let phase = hops.last().map(|hop: &Hop| hop.phase).unwrap_or_default();
        let cause = done.unwrap_or(Err(Cause::Timeout)).err();
        let error = cause.map(|cause| Error { phase, cause });
        // Afterwards: what is due does not wait for a calibration.
        let floor = self.floor.get().await;
        Outcome { began, elapsed, hops, unmet, error, floor }
    }

    async fn follow(
        &self,
        url: &Url,
        deadline: Instant,
        hops: &mut Vec<Hop>,
        unmet: &mut Vec<String>,
        on_phase: &mut (impl FnMut(&Hop, Phase) + Send),
    ) -> Result<(), Cause> {
        let origin = url.origin();
        let mut next = Next { url: url.clone(), method: self.spec.method.clone(), body: true, secrets: true };
        loop {
            let number = hops.len();
            hops.push(Hop::new(next.url.clone()));
            let done = self.request(&next, deadline, &mut hops[number], on_phase).await?;
            let Some(answer) = &hops[number].answer else { return Err(Cause::Closed) };
            if self.spec.redirects > 0
                && is_redirect(answer.status)
                && let Some(location) = &answer.location
            {
                if number >= usize::from(self.spec.redirects) {
                    return Err(Cause::Redirects(self.spec.redirects));
                }
                next = next.redirected(location, answer.status.as_u16(), &origin)?;
                continue;
            }
            let met = self.judge(&done, &hops[number], unmet);
            if let Err(Cause::Status(_) | Cause::Header(_)) = met {
                // They had come before the body was read.
                hops[number].phase = Phase::Processing;
            }
            return met;
        }
    }

    /// One request, from the name to the last byte.
    async fn request(
        &self,
        next: &Next,
        deadline: Instant,
        hop: &mut Hop,
        on_phase: &mut (impl FnMut(&Hop, Phase) + Send),
    ) -> Result<Exchanged, Cause> {
        let request = |http2| self.build(next, http2);
        let address = self.address(next, deadline, hop).await?;
        if hop.phases.get(Phase::Resolve).is_some() {
            on_phase(hop, Phase::Resolve);
        }
        let peer = SocketAddr::new(address, next.url.port_or_known_default().unwrap_or(80));
        hop.peer = Some(peer);
        hop.phase = Phase::Connect;
        let dial = dial::Spec { peer, dscp: self.spec.dscp, source: None };
        let connection = dial::connect(&dial, deadline).await.map_err(Cause::Connect)?;
        hop.local = connection.local;
        hop.connect_rtt = connection.rtt;
        hop.phases.set(Phase::Connect, connection.elapsed);
        on_phase(hop, Phase::Connect);
        let manner = Manner {
            http2: false,
            limit: self.spec.limit,
            keep: !self.spec.expect.body.is_empty(),
            follow: self.spec.redirects > 0,
        };
        let done = if next.url.scheme() == "https" {
            let stream = self.secure(connection.stream, next, deadline, hop).await?;
            on_phase(hop, Phase::Tls);
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            if !http2 && self.spec.version == Version::Http2 {
                return Err(Cause::Version);
            }
            exchange(stream, request(http2)?, Manner { http2, ..manner }, hop).await
        } else {
            let http2 = self.spec.version == Version::Http2;
            exchange(connection.stream, request(http2)?, Manner { http2, ..manner }, hop).await
        };
        for phase in [Phase::Processing, Phase::Transfer] {
            if hop.phases.get(phase).is_some() {
                on_phase(hop, phase);
            }
        }
        done
    }

    async fn address(&self, next: &Next, deadline: Instant, hop: &mut Hop) -> Result<IpAddr, Cause> {
        hop.addresses = match (next.url.host(), self.spec.address) {
            (Some(_), Some(address)) if next.secrets => vec![address],
            (Some(Host::Ipv4(address)), _) => vec![address.into()],
            (Some(Host::Ipv6(address)), _) => vec![address.into()],
            (Some(Host::Domain(name)), _) => {
                let resolved = resolve(name, deadline).await?;
                hop.phases.set(Phase::Resolve, resolved.elapsed);
                resolved.addresses
            }
            (None, _) => return Err(Cause::Location("the URL names no host".to_owned())),
        };
        choose(&hop.addresses, self.spec.family)
    }

    async fn secure(
        &self,
        stream: TcpStream,
        next: &Next,
        deadline: Instant,
        hop: &mut Hop,
    ) -> Result<tls::TlsStream<TcpStream>, Cause> {
        hop.phase = Phase::Tls;
        let host = match &self.spec.server_name {
            Some(name) if next.secrets => name,
            _ => next.url.host_str().unwrap_or_default(),
        };
        let name = tls::server_name(host).map_err(Cause::Tls)?;
        let (session, failure) = match self.tls.handshake(stream, &name, deadline).await {
            Ok(session) => ((Some(session.stream), Some(session.handshake)), None),
            Err(failure) => ((None, failure.handshake.map(|handshake| *handshake)), Some(failure.error)),
        };
        let (stream, handshake) = session;
        if let Some(handshake) = &handshake {
            hop.phases.set(Phase::Tls, handshake.elapsed);
        }
        hop.tls = handshake;
        match (stream, failure) {
            (Some(stream), None) => Ok(stream),
            (_, Some(error)) if error.class == tls::Class::Timeout => Err(Cause::Timeout),
            (_, Some(error)) => Err(Cause::Tls(error)),
            (None, None) => Err(Cause::Closed),
        }
    }

    fn build(&self, next: &Next, http2: bool) -> Result<Request<Full<Bytes>>, Cause> {
        let wrong = |error: &dyn std::fmt::Display| Cause::Location(error.to_string());
        let url = &next.url;
        let host = match url.port() {
            Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
            None => url.host_str().unwrap_or_default().to_owned(),
        };
        // The own header `host` is for the host that the measurement is of.
        let host = match self.spec.headers.get(HOST) {
            Some(own) if next.secrets => own.clone(),
            _ => HeaderValue::from_str(&host).map_err(|error| wrong(&error))?,
        };
        let mut path = url.path().to_owned();
        if let Some(query) = url.query() {
            path = format!("{path}?{query}");
        }
        let uri = if http2 {
            let authority = host.to_str().map_err(|error| wrong(&error))?;
            Uri::builder().scheme(url.scheme()).authority(authority).path_and_query(path).build()
        } else {
            Uri::builder().path_and_query(path).build()
        };
        let mut request =
            Request::builder().method(next.method.clone()).uri(uri.map_err(|error| wrong(&error))?);
        if let Some(headers) = request.headers_mut() {
            if !http2 {
                headers.insert(HOST, host);
            }
            headers.insert(USER_AGENT, HeaderValue::from_static(OWN_USER_AGENT));
            headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
            for name in self.spec.headers.keys() {
                if name == HOST || !next.secrets && (name == AUTHORIZATION || name == COOKIE) {
                    continue;
                }
                headers.remove(name);
                for value in self.spec.headers.get_all(name) {
                    headers.append(name.clone(), value.clone());
                }
            }
        }
        let body = if next.body { self.spec.body.clone() } else { Bytes::new() };
        request.body(Full::new(body)).map_err(|error| wrong(&error))
    }

    fn judge(&self, done: &Exchanged, hop: &Hop, unmet: &mut Vec<String>) -> Result<(), Cause> {
        let expect = &self.spec.expect;
        let status = hop.answer.as_ref().and_then(|answer| expect.status(answer.status));
        let headers: Vec<String> = expect.headers(&done.headers).collect();
        let body: Vec<String> = expect.body(&done.body).collect();
        let first = status
            .clone()
            .map(Cause::Status)
            .or_else(|| headers.first().cloned().map(Cause::Header))
            .or_else(|| body.first().cloned().map(Cause::Body));
        unmet.extend(status.into_iter().chain(headers).chain(body));
        first.map_or(Ok(()), Err)
    }
}

impl Next {
    /// The request that a redirect asks for (RFC 9110 §15.4): one of GET after 303, and after 301 and 302 of POST.
    fn redirected(&self, location: &str, status: u16, origin: &Origin) -> Result<Self, Cause> {
        let nowhere = |why: &dyn std::fmt::Display| {
            let shown: String = location.chars().take(100).collect();
            Cause::Location(format!("{shown:?}: {why}"))
        };
        let mut url = self.url.join(location).map_err(|error| nowhere(&error))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(nowhere(&"no URL of HTTP"));
        }
        // Credentials of a server's making are not sent. Neither fails for a URL of HTTP.
        let _ = (url.set_username(""), url.set_password(None));
        url.set_fragment(None);
        let keeps = match status {
            303 => matches!(self.method, Method::GET | Method::HEAD),
            301 | 302 => self.method != Method::POST,
            _ => true,
        };
        Ok(Self {
            method: if keeps { self.method.clone() } else { Method::GET },
            body: self.body && keeps,
            secrets: self.secrets && url.origin() == *origin,
            url,
        })
    }
}
