//! TCP connections that the server can cut, as networks do: what is on its way is lost in both directions.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::Connected;

/// Cuts the connection that a request came by; every request carries it as an extension.
#[derive(Debug, Clone)]
pub(super) struct Cut(Arc<State>);

#[derive(Debug)]
struct State {
    is_cut: AtomicBool,
    bytes_left: AtomicUsize,
}

impl Cut {
    fn new() -> Self {
        Self(Arc::new(State { is_cut: AtomicBool::new(false), bytes_left: AtomicUsize::new(usize::MAX) }))
    }

    /// Nothing more is read or written.
    pub(super) fn now(&self) {
        self.0.is_cut.store(true, Ordering::SeqCst);
    }

    /// The connection breaks when so many more bytes were read.
    pub(super) fn after_bytes(&self, bytes: usize) {
        self.0.bytes_left.store(bytes, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        match self.0.is_cut.load(Ordering::SeqCst) {
            true => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
            false => Ok(()),
        }
    }

    fn has_read(&self, bytes: usize) {
        let left = self.0.bytes_left.load(Ordering::SeqCst);
        if left == usize::MAX {
            return;
        }
        self.0.bytes_left.store(left.saturating_sub(bytes), Ordering::SeqCst);
        if bytes > left {
            self.now();
        }
    }
}

/// One client's connection.
pub(super) struct Connection {
    stream: TcpStream,
    cut: Cut,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, cut: Cut::new() })
    }
}

impl Connected for Connection {
    type ConnectInfo = Cut;

    fn connect_info(&self) -> Cut {
        self.cut.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.cut.check()?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.cut.has_read(buffer.filled().len() - before);
        self.cut.check()?;
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.cut.check()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cut.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
