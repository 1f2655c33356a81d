//! Where MRT data comes from: a path or an http(s) URL, plain or compressed.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
    str::FromStr,
};

use flate2::bufread::MultiGzDecoder;
use url::Url;

use super::http;

/// Read at once.
const BUFFER: usize = 256 * 1024;

/// A file of MRT records.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// On this host.
    Path(PathBuf),
    /// On a web server; `http` or `https`.
    Url(Box<Url>),
}

/// How a file is compressed, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952), any number of members.
    Gzip,
    /// bzip2, any number of streams.
    Bzip2,
}

/// Why a source could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The text is neither a path nor a URL that is read.
    #[error("{0:?} is neither a path nor an http or https URL")]
    Source(String),
    /// The file cannot be opened.
    #[error("open {path}: {source}")]
    File {
        /// Its path.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// The server cannot be reached, or does not give the file.
    #[error("get {url}: {text}")]
    Http {
        /// Its URL.
        url: String,
        /// Why.
        text: String,
    },
}

/// Opens a source, decompressing if its first bytes say so. A web server is spoken to while reading, with deadlines.
///
/// Not to be called on a thread of an asynchronous runtime: it blocks, and so does what it returns.
///
/// # Errors
/// When the source cannot be opened. What goes wrong later is an error of reading.
pub fn open(source: &Source) -> Result<Box<dyn Read + Send>, OpenError> {
    let raw: Box<dyn Read + Send> = match source {
        Source::Path(path) => {
            let failed = |error| OpenError::File { path: path.display().to_string(), source: error };
            let file = File::open(path).map_err(failed)?;
            if file.metadata().map_err(failed)?.is_dir() {
                return Err(failed(io::ErrorKind::IsADirectory.into()));
            }
            Box::new(file)
        }
        Source::Url(url) => {
            Box::new(http::get(url).map_err(|text| OpenError::Http { url: url.to_string(), text })?)
        }
    };
    let mut input = BufReader::with_capacity(BUFFER, raw);
    // An error of the first read comes again with the next.
    let begin = input.fill_buf().unwrap_or_default();
    Ok(match Compression::of(begin) {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(input))),
        Compression::Bzip2 => {
            Box::new(BufReader::with_capacity(BUFFER, bzip2::bufread::MultiBzDecoder::new(input)))
        }
    })
}

impl Compression {
    /// By the first bytes: no MRT record of our times begins like them.
    pub fn of(begin: &[u8]) -> Self {
        if begin.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if begin.starts_with(b"BZh") {
            Self::Bzip2
        } else {
            Self::None
        }
    }
}

impl Source {
    /// The last component of the path, as a name for the collector.
    pub fn name(&self) -> String {
        match self {
            Self::Path(path) => path.file_name().map(|name| name.to_string_lossy().into_owned()),
            Self::Url(url) => url.path_segments().and_then(|mut parts| parts.next_back().map(str::to_owned)),
        }
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| self.to_string())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

impl FromStr for Source {
    type Err = OpenError;

    fn from_str(text: &str) -> Result<Self, OpenError> {
        let wrong = || OpenError::Source(text.chars().take(200).collect());
        if text.is_empty() {
            return Err(wrong());
        }
        if !text.contains("://") {
            return Ok(Self::Path(text.into()));
        }
        let url: Url = text.parse().map_err(|_| wrong())?;
        if matches!(url.scheme(), "http" | "https") && url.has_host() {
            Ok(Self::Url(Box::new(url)))
        } else {
            Err(wrong())
        }
    }
}
