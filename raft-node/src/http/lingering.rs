//! Closing a connection so that the last answer arrives.
//!
//! A socket that is closed while bytes of the client are unread, or come in later, is reset, and a reset throws away what the
//! client has not read yet: it would be told "connection reset" instead of what is wrong with its request. So the sending
//! side is closed first, and what still comes is read and dropped until the client closes too, for a moment at most
//! (RFC 9112, section 9.6).
//!
//! And a client that takes nothing of its answers is not waited for for ever: its connection ends.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How long a client may take to close its side after the last answer.
const LINGER: Duration = Duration::from_secs(1);
/// Read and dropped at once.
const PIECE_BYTES: usize = 16 << 10;

/// A stream whose shutdown waits for the other side's.
pub(super) struct Lingering<S> {
    stream: S,
    /// No more is waited for once this is cancelled: the node stops.
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    end: End,
    /// How long nothing may be taken of what is written.
    stall_timeout: Duration,
    /// While nothing is taken: when that is over.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// How far the end of a connection is.
enum End {
    /// It is in use.
    Open,
    /// The client has closed its side: nothing can come in.
    Read,
    /// Ours is closed, and what comes in is dropped until then.
    Waiting(Pin<Box<Sleep>>),
}

impl<S> Lingering<S> {
    pub(super) fn new(stream: S, stop: CancellationToken, stall_timeout: Duration) -> Self {
        Self { stream, stop: Box::pin(stop.cancelled_owned()), end: End::Open, stall_timeout, stalled: None }
    }

    /// Gives up what has waited for the client for too long.
    fn bounded<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let limit = self.stall_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if read.is_err() || (room > 0 && buffer.filled().len() == before) {
            self.end = End::Read;
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bounded(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.bounded(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.end {
                End::Read => {
                    let polled = Pin::new(&mut this.stream).poll_shutdown(cx);
                    return this.bounded(cx, polled);
                }
                End::Open => {
                    let polled = Pin::new(&mut this.stream).poll_shutdown(cx);
                    ready!(this.bounded(cx, polled))?;
                    this.end = End::Waiting(Box::pin(tokio::time::sleep(LINGER)));
                }
                End::Waiting(until) => {
                    if until.as_mut().poll(cx).is_ready() || this.stop.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                    let mut piece = [0; PIECE_BYTES];
                    let mut piece = ReadBuf::new(&mut piece);
                    let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut piece));
                    // However it ended, the answer is out, and nothing more comes.
                    if read.is_err() || piece.filled().is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.bounded(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Longer than any test.
    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (ours, _clients) = tokio::io::duplex(8);
        let mut ours = Lingering::new(ours, CancellationToken::new(), Duration::from_millis(20));
        let error = ours.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn what_still_comes_is_read_until_the_client_closes() {
        let (ours, mut clients) = tokio::io::duplex(8);
        let mut ours = Lingering::new(ours, CancellationToken::new(), NEVER);
        ours.write_all(b"refused").await.unwrap();
        let closes = tokio::spawn(async move { ours.shutdown().await });
        // Far more than the pipe holds: all of it is taken.
        clients.write_all(&[0; 1000]).await.unwrap();
        assert!(!closes.is_finished());
        let mut answer = Vec::new();
        clients.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"refused");
        drop(clients);
        closes.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_does_not_close_is_not_waited_for_without_end() {
        let (ours, _clients) = tokio::io::duplex(8);
        let mut ours = Lingering::new(ours, CancellationToken::new(), NEVER);
        ours.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_node_that_stops_and_a_client_that_is_gone_are_not_waited_for() {
        let (ours, _clients) = tokio::io::duplex(8);
        let stop = CancellationToken::new();
        let mut ours = Lingering::new(ours, stop.clone(), NEVER);
        stop.cancel();
        ours.shutdown().await.unwrap();
        let (ours, clients) = tokio::io::duplex(8);
        let mut ours = Lingering::new(ours, CancellationToken::new(), NEVER);
        drop(clients);
        assert_eq!(ours.read(&mut [0; 1]).await.unwrap(), 0);
        ours.shutdown().await.unwrap();
    }
}
