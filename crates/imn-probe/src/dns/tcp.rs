//! Messages behind their length, over any stream (RFC 1035 §4.2.2).

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::answer::HEADER;
use super::config::Ask;
use super::outcome::{Failure, Outcome};
use super::stream::Tap;
use crate::tls;

/// Asks over a connection that stands, and fills in the answer.
pub(super) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    tap: &Tap,
    ask: &Ask,
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    // In one piece: some servers do not like the length alone.
    let mut message = Vec::with_capacity(ask.bytes.len() + 2);
    message.extend((ask.bytes.len() as u16).to_be_bytes());
    message.extend(&ask.bytes);
    let mut trial = tap.start();
    stream.write_all(&message).await.map_err(|error| ended(&error, 0))?;
    stream.flush().await.map_err(|error| ended(&error, 0))?;
    loop {
        let mut length = [0; 2];
        fill(stream, &mut length, 0).await?;
        let length = u16::from_be_bytes(length);
        if usize::from(length) < HEADER {
            return Err(Failure::Length(length));
        }
        let mut bytes = vec![0; usize::from(length)];
        fill(stream, &mut bytes, 2).await?;
        match ask.judge(&bytes) {
            Ok(answer) => {
                let lap = trial.lap();
                (outcome.phases.query, outcome.source) = (Some(lap.elapsed), lap.source);
                let fault = answer.fault;
                (outcome.answer, outcome.bytes) = (Some(answer), bytes);
                return fault.map_or(Ok(()), |fault| Err(fault.into()));
            }
            Err(mismatch) => {
                let count = outcome.wrong.of(mismatch);
                *count = count.saturating_add(1);
            }
        }
    }
}

/// Fills the buffer; `before` bytes of the message came before it.
async fn fill<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut [u8], before: usize) -> Result<(), Failure> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]).await {
            Ok(0) => return Err(Failure::Closed { got: before + filled }),
            Ok(count) => filled += count,
            Err(error) => return Err(ended(&error, before + filled)),
        }
    }
    Ok(())
}

fn ended(error: &io::Error, got: usize) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Failure::Reset,
        io::ErrorKind::UnexpectedEof => Failure::Closed { got },
        io::ErrorKind::TimedOut => Failure::Timeout,
        _ => Failure::Tls(tls::Error::of_stream(error)),
    }
}
