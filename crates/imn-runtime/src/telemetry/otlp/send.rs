//! One request to a collector, over gRPC or HTTP.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
    metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
    trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
};
use prost::Message;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Status,
    metadata::MetadataMap,
    transport::{Certificate, Channel, ClientTlsConfig},
};

use super::config::{ConfigError, Endpoint, Protocol};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// What is sent.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Traces(ExportTraceServiceRequest),
    Logs(ExportLogsServiceRequest),
    Metrics(ExportMetricsServiceRequest),
}

/// Why it was not taken.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) message: String,
    /// Whether it may be taken another time.
    pub(super) passing: bool,
}

/// The way to one endpoint.
pub(super) struct Sender {
    route: Route,
    timeout: Duration,
}

enum Route {
    Grpc { channel: Channel, metadata: MetadataMap },
    Http { url: Uri, headers: HeaderMap, tls: Option<TlsConnector> },
}

impl Sender {
    /// Connects when there is something to send. To be called within a runtime.
    ///
    /// # Errors
    /// When the certificates cannot be used.
    pub(super) fn new(endpoint: Endpoint) -> Result<Self, ConfigError> {
        let wrong = |message: String| ConfigError::new(&endpoint.variable, message);
        let secure = endpoint.url.scheme_str() == Some("https");
        let pem = endpoint.certificate.as_deref().map(std::fs::read).transpose();
        let pem = pem.map_err(|error| wrong(format!("certificate: {error}")))?;
        let headers: HeaderMap = endpoint.headers.into_iter().collect();
        let route = match endpoint.protocol {
            Protocol::Grpc => {
                let mut channel = Channel::builder(endpoint.url.clone()).connect_timeout(CONNECT_WITHIN);
                if secure {
                    let tls = ClientTlsConfig::new();
                    let tls = match pem {
                        Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
                        None => tls.with_native_roots(),
                    };
                    channel = channel.tls_config(tls).map_err(|error| wrong(told(&error)))?;
                }
                Route::Grpc { channel: channel.connect_lazy(), metadata: MetadataMap::from_headers(headers) }
            }
            Protocol::Http => {
                let tls = secure.then(|| connector(pem.as_deref())).transpose();
                Route::Http { url: endpoint.url.clone(), headers, tls: tls.map_err(wrong)? }
            }
        };
        Ok(Self { route, timeout: endpoint.timeout })
    }

    /// Sends once.
    pub(super) async fn send(&self, content: &Content) -> Result<(), Failure> {
        let sending = async {
            match &self.route {
                Route::Grpc { channel, metadata } => {
                    call(channel.clone(), metadata.clone(), content.clone()).await
                }
                Route::Http { url, headers, tls } => {
                    let body = match content {
                        Content::Traces(request) => request.encode_to_vec(),
                        Content::Logs(request) => request.encode_to_vec(),
                        Content::Metrics(request) => request.encode_to_vec(),
                    };
                    post(url, headers, tls.as_ref(), body.into()).await
                }
            }
        };
        tokio::time::timeout(self.timeout, sending).await.unwrap_or_else(|_| {
            let message = format!("not taken within {} ms", self.timeout.as_millis());
            Err(Failure { message, passing: true })
        })
    }
}

async fn call(channel: Channel, metadata: MetadataMap, content: Content) -> Result<(), Failure> {
    fn with<T>(metadata: MetadataMap, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = metadata;
        request
    }
    let answer = match content {
        Content::Traces(request) => {
            TraceServiceClient::new(channel).export(with(metadata, request)).await.map(drop)
        }
        Content::Logs(request) => {
            LogsServiceClient::new(channel).export(with(metadata, request)).await.map(drop)
        }
        Content::Metrics(request) => {
            MetricsServiceClient::new(channel).export(with(metadata, request)).await.map(drop)
        }
    };
    answer.map_err(|status: Status| Failure {
        // The specification names those that pass.
        passing: matches!(
            status.code(),
            Code::Cancelled
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unavailable
                | Code::DataLoss
        ),
        message: told(&status),
    })
}

async fn post(
    url: &Uri,
    headers: &HeaderMap,
    tls: Option<&TlsConnector>,
    body: Bytes,
) -> Result<(), Failure> {
    let passing = |error: &dyn std::error::Error| Failure { message: told(error), passing: true };
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await.map_err(|error| passing(&error))?;
    let mut request = Request::post(url.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, url.authority().map_or("", |authority| authority.as_str()))
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .header(header::CONNECTION, "close");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request =
        request.body(Full::new(body)).map_err(|error| Failure { message: told(&error), passing: false })?;
    let status = match tls {
        None => exchange(stream, request).await.map_err(|error| passing(&error))?,
        Some(tls) => {
            let name = ServerName::try_from(host.to_owned()).map_err(|error| passing(&error))?;
            let stream = tls.connect(name, stream).await.map_err(|error| passing(&error))?;
            exchange(stream, request).await.map_err(|error| passing(&error))?
        }
    };
    if status.is_success() {
        return Ok(());
    }
    let passing = matches!(status.as_u16(), 429 | 502 | 503 | 504);
    Err(Failure { message: format!("answered {status}"), passing })
}

/// Sends a request over a connection of its own: one a second at most is not worth keeping one.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> hyper::Result<StatusCode>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    let mut connection = std::pin::pin!(connection);
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // It ends with its last answer, or with the reason why there is none.
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    Ok(answer?.status())
}

fn connector(pem: Option<&[u8]>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match pem {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| format!("certificate: {error}"))?;
                roots.add(certificate).map_err(|error| format!("certificate: {error}"))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// An error with all its reasons: the last one is the one that helps.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(reason) = source {
        let reason_text = reason.to_string();
        if !text.contains(&reason_text) {
            text = format!("{text}: {reason_text}");
        }
        source = reason.source();
    }
    text
}
