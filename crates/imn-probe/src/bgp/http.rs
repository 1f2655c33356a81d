//! A file from a web server, as something to read from.

use std::{
    future::Future,
    io::{self, Read},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, StatusCode,
    body::Incoming,
    client::conn::http1,
    header::{ACCEPT, HOST, LOCATION, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::{Builder, Runtime},
};
use tokio_rustls::TlsConnector;
use url::Url;

/// How long a connection, an answer, or the next piece of a body is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const REDIRECTS: usize = 5;

type Connection = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// The body of an answer. It owns its connection, which moves only while it is read.
pub(super) struct Body {
    runtime: Runtime,
    connection: Option<Connection>,
    incoming: Incoming,
    piece: Bytes,
}

/// Asks for a URL and follows redirects.
pub(super) fn get(url: &Url) -> Result<Body, String> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let mut url = url.clone();
    for _ in 0..=REDIRECTS {
        let asked = runtime.block_on(async {
            tokio::time::timeout(PATIENCE, ask(&url)).await.unwrap_or_else(|_| Err("no answer".to_owned()))
        })?;
        match asked {
            Answer::Found(connection, incoming) => {
                return Ok(Body { runtime, connection, incoming, piece: Bytes::new() });
            }
            Answer::Moved(to) => {
                let next = url.join(&to).map_err(|_| format!("redirected to {to:?}, which is no URL"))?;
                if !matches!(next.scheme(), "http" | "https") {
                    return Err(format!("redirected to {next}, which is neither http nor https"));
                }
                url = next;
            }
        }
    }
    Err(format!("redirected more than {REDIRECTS} times"))
}

enum Answer {
    /// With the connection, unless it has ended already.
    Found(Option<Connection>, Incoming),
    Moved(String),
}

async fn ask(url: &Url) -> Result<Answer, String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    let host = url.host_str().ok_or("the URL has no host")?;
    let port = url.port_or_known_default().ok_or("the URL has no port")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let stream = tokio::net::TcpStream::connect((bare.as_str(), port)).await.map_err(|e| words(&e))?;
    if url.scheme() == "https" {
        let name = ServerName::try_from(bare).map_err(|e| words(&e))?;
        let connector = TlsConnector::from(tls()?);
        let stream = connector.connect(name, stream).await.map_err(|e| words(&e))?;
        exchange(url, stream).await
    } else {
        exchange(url, stream).await
    }
}

async fn exchange<S>(url: &Url, stream: S) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let words = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(words)?;
    let mut connection: Connection = Box::pin(connection);
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let request = Request::get(&url[url::Position::BeforePath..url::Position::AfterQuery])
        .header(HOST, authority)
        .header(ACCEPT, "*/*")
        .header(USER_AGENT, concat!("imn/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    let (answer, connection) = tokio::select! {
        biased;
        answer = &mut answer => (answer, Some(connection)),
        _ = &mut connection => {
            // What the server said before the connection ended is there; how it ended, the answer or its body says.
            drop(connection);
            (answer.await, None)
        }
    };
    let response = answer.map_err(words)?;
    let status = response.status();
    if status.is_redirection() {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        return location
            .map(|to| Answer::Moved(to.to_owned()))
            .ok_or_else(|| format!("{status}, to nowhere"));
    }
    if status != StatusCode::OK {
        return Err(status.to_string());
    }
    Ok(Answer::Found(connection, response.into_body()))
}

/// Trusts what the host trusts.
pub(super) fn tls() -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    // A certificate that cannot be read is one less to trust.
    let (_, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let Some(piece) = self.next()? else { return Ok(0) };
            self.piece = piece;
        }
        let count = self.piece.len().min(into.len());
        self.piece.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}

impl Body {
    /// The next piece of the body; `None` at its end.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let (incoming, connection) = (&mut self.incoming, &mut self.connection);
        let frame = async {
            loop {
                let Some(moving) = connection else { return incoming.frame().await };
                tokio::select! {
                    biased;
                    frame = incoming.frame() => return frame,
                    // What it has left to say of an error, the body says too.
                    _ = moving => *connection = None,
                }
            }
        };
        // The clock of the timeout is the runtime's: it has to begin within.
        let frame = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, frame).await });
        match frame {
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the server sends nothing more")),
            Ok(None) => Ok(None),
            Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
            Ok(Some(Err(error))) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::{TcpListener, TcpStream},
        thread,
    };

    use super::*;

    /// Serves the answers one after the other, one connection each; gives the first line of each request.
    fn serve(answers: Vec<Vec<u8>>) -> (u16, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = thread::spawn(move || {
            let serve = |answer: Vec<u8>| {
                let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().unwrap().unwrap();
                lines.find(|line| line.as_ref().unwrap().is_empty());
                stream.write_all(&answer).unwrap();
                first
            };
            answers.into_iter().map(serve).collect()
        });
        (port, served)
    }

    #[test]
    fn redirects_are_followed_and_a_cut_body_is_an_error() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec();
        let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello".to_vec();
        let moved = b"HTTP/1.1 302 Found\r\nLocation: /b?c=d\r\nContent-Length: 0\r\n\r\n".to_vec();
        let (port, served) = serve(vec![moved, whole, cut, b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec()]);
        let url: Url = format!("http://127.0.0.1:{port}/a").parse().unwrap();
        let mut text = String::new();
        get(&url).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        let mut text = String::new();
        let error = get(&url).unwrap().read_to_string(&mut text).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(get(&url).err().unwrap(), "404 Not Found");
        let requests = served.join().unwrap();
        assert_eq!(
            requests,
            ["GET /a HTTP/1.1", "GET /b?c=d HTTP/1.1", "GET /a HTTP/1.1", "GET /a HTTP/1.1"]
        );
    }
}
