//! The client's half of SPDY/3.1, as far as Kubernetes forwards ports by it.
//!
//! Each forwarded connection is a pair of streams, one for data and one on which the server says what went wrong. Over
//! the WebSocket that kube speaks, a session forwards one connection only, each at the price of several TLS handshakes on
//! the way to the container runtime; a session of SPDY is kept and takes one connection after the other. One at a time,
//! because neither side has flow control for streams: who reads slowly would hold up the others.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read at once, and how much a frame carries at most.
const CHUNK: usize = 64 * 1024;
/// A frame that controls and is longer than this is none of Kubernetes'.
const CONTROL_MAX: usize = 16 * 1024;
/// How much of an error is kept.
const MESSAGE_MAX: usize = 4 * 1024;
/// After this many streams a session is not used again; ids end at 2^31.
const STREAMS_MAX: u32 = 1 << 24;

const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;

/// Something to speak over.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A session, on which nothing is forwarded at this moment.
pub(super) struct Session {
    io: Box<dyn Io>,
    /// Read and not yet looked at: `input[from..to]`.
    input: Box<[u8]>,
    from: usize,
    to: usize,
    /// The data frame under way.
    frame: Option<DataFrame>,
    /// To be written.
    output: BytesMut,
    next_stream: u32,
}

/// A data frame whose payload has not all been seen.
#[derive(Clone, Copy)]
struct DataFrame {
    stream: u32,
    left: usize,
    last: bool,
}

/// What a session has to say, but for data of the stream that was asked for.
enum Event {
    /// Some bytes of data were put where they belong.
    Data,
    /// The stream has ended.
    End(u32),
    /// The stream was given up.
    Reset(u32),
    /// Bytes of another stream, which are in `input[from..]`.
    Other { stream: u32, len: usize },
}

impl Session {
    pub(super) fn new(io: impl Io + 'static) -> Session {
        let input = vec![0; CHUNK].into_boxed_slice();
        Session {
            io: Box::new(io),
            input,
            from: 0,
            to: 0,
            frame: None,
            output: BytesMut::new(),
            next_stream: 1,
        }
    }

    /// Opens a forwarded connection; what is written to it first travels in the same packet.
    pub(super) fn open(mut self, port: u16) -> Stream {
        let error = self.syn_stream("error", port, FIN);
        let data = self.syn_stream("data", port, 0);
        Stream { session: self, data, error, state: State::default() }
    }

    /// Whether the session can take another connection: it is alive, and what earlier ones have left is passed over.
    pub(super) fn is_usable(&mut self) -> bool {
        let mut context = Context::from_waker(std::task::Waker::noop());
        if self.next_stream / 4 >= STREAMS_MAX
            || !matches!(self.poll_flush(&mut context), Poll::Ready(Ok(())))
        {
            return false;
        }
        // More than this is a big answer that nobody has waited for; it would take the time of who comes next.
        for _ in 0..8 {
            let mut none = ReadBuf::new(&mut []);
            match self.poll_event(&mut context, 0, &mut none) {
                Poll::Pending => return true,
                Poll::Ready(Ok(Event::Other { len, .. })) => self.pass(len),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return false,
            }
        }
        false
    }

    fn syn_stream(&mut self, kind: &str, port: u16, flags: u8) -> u32 {
        let id = self.next_stream;
        self.next_stream += 2;
        let request = (id / 4).to_string();
        let mut headers = BytesMut::new();
        headers.put_u32(3);
        for text in ["streamtype", kind, "port", &port.to_string(), "requestid", &request] {
            headers.put_u32(text.len() as u32);
            headers.put_slice(text.as_bytes());
        }
        let mut payload = BytesMut::new();
        payload.put_u32(id);
        // No associated stream, priority 0, no slot.
        payload.put_u32(0);
        payload.put_u16(0);
        if id == 1 {
            // Headers are one zlib stream for the whole session. It begins with the checksum of SPDY's dictionary; the
            // blocks are stored as they are, because a few bytes less are not worth a compressor.
            payload.put_slice(&[0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2]);
        }
        payload.put_u8(0);
        payload.put_u16_le(headers.len() as u16);
        payload.put_u16_le(!(headers.len() as u16));
        payload.put_slice(&headers);
        // An empty block makes the reader hand out what it has.
        payload.put_slice(&[0, 0, 0, 0xff, 0xff]);
        self.control(SYN_STREAM, flags, &payload);
        id
    }

    fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) {
        self.output.put_u16(0x8003);
        self.output.put_u16(kind);
        self.output.put_u32(u32::from(flags) << 24 | payload.len() as u32);
        self.output.put_slice(payload);
    }

    fn data(&mut self, stream: u32, flags: u8, payload: &[u8]) {
        self.output.put_u32(stream);
        self.output.put_u32(u32::from(flags) << 24 | payload.len() as u32);
        self.output.put_slice(payload);
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Reads until `input` has `len` bytes.
    fn poll_input(&mut self, cx: &mut Context<'_>, len: usize) -> Poll<io::Result<()>> {
        while self.to - self.from < len {
            if self.from > 0 {
                self.input.copy_within(self.from..self.to, 0);
                self.to -= self.from;
                self.from = 0;
            }
            let mut space = ReadBuf::new(&mut self.input[self.to..]);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut space))?;
            match space.filled().len() {
                0 => return Poll::Ready(Err(closed())),
                n => self.to += n,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes `len` bytes off the input as seen.
    fn pass(&mut self, len: usize) {
        self.from += len;
        if let Some(frame) = &mut self.frame {
            frame.left -= len;
        }
    }

    /// What comes next; bytes of `stream` go into `buf`.
    fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
        stream: u32,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Event>> {
        let event = self.poll_frames(cx, stream, buf);
        // A ping among what was read wants its answer, and nothing else may be written for a long time.
        if event.is_pending()
            && !self.output.is_empty()
            && let Poll::Ready(Err(error)) = self.poll_flush(cx)
        {
            return Poll::Ready(Err(error));
        }
        event
    }

    fn poll_frames(
        &mut self,
        cx: &mut Context<'_>,
        stream: u32,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Event>> {
        loop {
            let Some(frame) = self.frame else {
                if let Some(event) = ready!(self.poll_header(cx))? {
                    return Poll::Ready(Ok(event));
                }
                continue;
            };
            if frame.left == 0 {
                self.frame = None;
                if frame.last {
                    return Poll::Ready(Ok(Event::End(frame.stream)));
                }
                continue;
            }
            if frame.stream == stream && self.from == self.to {
                // Straight to where it belongs.
                let len = frame.left.min(buf.remaining());
                let mut part = ReadBuf::new(buf.initialize_unfilled_to(len));
                ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
                let n = part.filled().len();
                if n == 0 {
                    return Poll::Ready(Err(closed()));
                }
                buf.advance(n);
                self.frame = Some(DataFrame { left: frame.left - n, ..frame });
                return Poll::Ready(Ok(Event::Data));
            }
            ready!(self.poll_input(cx, 1))?;
            let len = frame.left.min(self.to - self.from);
            if frame.stream != stream {
                return Poll::Ready(Ok(Event::Other { stream: frame.stream, len }));
            }
            let len = len.min(buf.remaining());
            buf.put_slice(&self.input[self.from..self.from + len]);
            self.pass(len);
            return Poll::Ready(Ok(Event::Data));
        }
    }

    /// Reads the next frame's header; a frame that controls is read whole.
    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Event>>> {
        ready!(self.poll_input(cx, 8))?;
        let mut header = &self.input[self.from..self.from + 8];
        let (first, second) = (header.get_u32(), header.get_u32());
        let (flags, len) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
        if first & 0x8000_0000 == 0 {
            self.from += 8;
            self.frame = Some(DataFrame { stream: first, left: len, last: flags & FIN != 0 });
            return Poll::Ready(Ok(None));
        }
        if len > CONTROL_MAX {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a control frame is too long",
            )));
        }
        ready!(self.poll_input(cx, 8 + len))?;
        let payload = self.from + 8..self.from + 8 + len;
        self.from = payload.end;
        let stream = |payload: &[u8]| payload.get(..4).map(|mut id| id.get_u32() & 0x7fff_ffff);
        let event = match (first & 0xffff) as u16 {
            RST_STREAM => stream(&self.input[payload]).map(Event::Reset),
            PING => {
                let ping = self.input[payload].to_vec();
                self.control(PING, 0, &ping);
                None
            }
            GOAWAY => return Poll::Ready(Err(closed())),
            // Replies say nothing that a reset would not contradict; their headers are empty.
            _ => None,
        };
        Poll::Ready(Ok(event))
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the API server closed the session")
}

/// A forwarded connection.
///
/// It fails with [`io::ErrorKind::ConnectionRefused`] where the pod did not take the connection, so that nothing of what was
/// written has reached anybody.
pub(super) struct Stream {
    session: Session,
    data: u32,
    error: u32,
    state: State,
}

#[derive(Default)]
struct State {
    received: bool,
    finished: bool,
    data_ended: bool,
    error_ended: bool,
    reset: bool,
    message: Vec<u8>,
}

/// What container runtimes say when they have not reached the pod's process.
const NOT_REACHED: [&str; 5] = [
    "connection refused",
    "failed to connect",
    "dial tcp",
    "failed to find sandbox",
    "network namespace for",
];

impl Stream {
    /// Whether the server's end has come.
    pub(super) fn is_over(&self) -> bool {
        self.state.data_ended && self.state.error_ended
    }

    /// Ends the connection; the session can take another one.
    pub(super) fn into_session(mut self) -> Session {
        self.finish();
        self.session
    }

    fn finish(&mut self) {
        if !std::mem::replace(&mut self.state.finished, true) {
            self.session.data(self.data, FIN, &[]);
        }
    }

    fn end(&self) -> io::Result<()> {
        let State { received, reset, message, .. } = &self.state;
        let message = String::from_utf8_lossy(message);
        if message.is_empty() && !reset {
            return Ok(());
        }
        if message.is_empty() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let lower = message.to_lowercase();
        let reached = *received || !NOT_REACHED.iter().any(|part| lower.contains(part));
        let kind = if reached { io::ErrorKind::ConnectionReset } else { io::ErrorKind::ConnectionRefused };
        Err(io::Error::new(kind, message.trim().to_owned()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Stream { session, data, error, state } = &mut *self;
        // Nobody answers to what is not on its way.
        if let Poll::Ready(Err(error)) = session.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        // A refused connection looks like an empty one, until the error stream has ended too.
        while !(state.data_ended && state.error_ended) {
            match ready!(session.poll_event(cx, *data, buf))? {
                Event::Data => {
                    state.received = true;
                    return Poll::Ready(Ok(()));
                }
                Event::Other { stream, len } => {
                    if stream == *error && state.message.len() < MESSAGE_MAX {
                        state.message.extend_from_slice(&session.input[session.from..session.from + len]);
                    }
                    session.pass(len);
                }
                Event::End(stream) => {
                    state.data_ended |= stream == *data;
                    state.error_ended |= stream == *error;
                }
                Event::Reset(stream) => {
                    state.reset |= stream == *data && !state.data_ended;
                    state.data_ended |= stream == *data;
                    state.error_ended |= stream == *error;
                }
            }
        }
        Poll::Ready(self.end())
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.session.output.len() >= CHUNK {
            ready!(self.session.poll_flush(cx))?;
        }
        let len = buf.len().min(CHUNK);
        let stream = self.data;
        self.session.data(stream, 0, &buf[..len]);
        match self.session.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(len)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.session.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        self.session.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests;
