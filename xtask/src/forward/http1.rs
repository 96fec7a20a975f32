//! Where requests and answers of HTTP/1 end, read along a connection.
//!
//! A forward through the API does not hear that a server has closed until a second later: containerd waits so long for the
//! other direction. So the end is taken from what the server has said about it.

use std::collections::VecDeque;

/// A head longer than this is not followed.
const HEAD_MAX: usize = 64 * 1024;
/// Header fields that a head may have.
const FIELDS_MAX: usize = 128;

/// What has been seen of a connection.
#[derive(Debug, Default)]
pub(super) struct Ends {
    requests: Messages,
    answers: Messages,
    /// What the requests that have no answer yet asked for.
    open: VecDeque<Asked>,
    /// The server closes after the last answer.
    closing: bool,
    /// It is no HTTP/1, or not any more.
    opaque: bool,
    /// Whether anything was asked.
    asked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    /// `HEAD`, whose answer has a length and no body.
    head: bool,
    /// `CONNECT`, after whose answer anything may follow.
    connect: bool,
}

/// One direction.
#[derive(Debug, Default)]
struct Messages {
    /// A head that is not whole yet.
    head: Vec<u8>,
    body: Body,
}

/// What is left of the body under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Body {
    /// There is none: a head is next.
    #[default]
    None,
    Length(u64),
    Chunked(Chunk),
    UntilClosed,
}

/// Where in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// In a chunk's size, so far this.
    Size(u64),
    /// Behind the size, before its line ends.
    Extension(u64),
    /// In a chunk with its line break.
    Data(u64),
    /// In the trailer: whether the line has nothing so far.
    Trailer { empty: bool },
}

/// What a head says.
struct Head {
    body: Body,
    /// What it says of the body's length.
    length: Option<u64>,
    close: bool,
    keep: bool,
}

impl Ends {
    /// Takes note of what the client has sent.
    pub(super) fn request(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.opaque {
            if self.requests.body != Body::None {
                self.requests.pass(&mut bytes);
                continue;
            }
            self.asked = true;
            let whole = self.requests.head(&mut bytes, |head| {
                let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
                let mut request = httparse::Request::new(&mut fields);
                let end = match request.parse(head) {
                    Ok(httparse::Status::Complete(end)) => end,
                    Ok(httparse::Status::Partial) => return Ok(None),
                    Err(_) => return Err(()),
                };
                let method = request.method.unwrap_or_default();
                let said = Head::of(request.headers)?;
                Ok(Some((end, said.body, Asked { head: method == "HEAD", connect: method == "CONNECT" })))
            });
            match whole {
                Ok(Some((body, asked))) => {
                    self.open.push_back(asked);
                    self.requests.body = body;
                }
                Ok(None) => {}
                Err(()) => self.opaque = true,
            }
        }
    }

    /// Takes note of what the server has sent.
    pub(super) fn answer(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.opaque {
            if self.answers.body != Body::None {
                self.answers.pass(&mut bytes);
                if self.answers.body == Body::None {
                    self.open.pop_front();
                }
                continue;
            }
            let Some(asked) = self.open.front().copied() else {
                // It speaks without being asked.
                self.opaque = true;
                return;
            };
            let whole = self.answers.head(&mut bytes, |head| {
                let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
                let mut answer = httparse::Response::new(&mut fields);
                let end = match answer.parse(head) {
                    Ok(httparse::Status::Complete(end)) => end,
                    Ok(httparse::Status::Partial) => return Ok(None),
                    Err(_) => return Err(()),
                };
                let said = Head::of(answer.headers)?;
                let status = answer.code.unwrap_or_default();
                let close = said.close || answer.version == Some(0) && !said.keep;
                if status == 101 || asked.connect && (200..300).contains(&status) {
                    return Err(());
                }
                let without = asked.head || matches!(status, 100..200 | 204 | 304);
                let body = match said.body {
                    _ if without => Body::None,
                    Body::None if said.length.is_none() => Body::UntilClosed,
                    body => body,
                };
                Ok(Some((end, body, (status, close))))
            });
            match whole {
                Ok(Some((body, (status, close)))) => {
                    // What comes before the answer itself.
                    if (100..200).contains(&status) {
                        continue;
                    }
                    self.closing |= close;
                    self.answers.body = body;
                    if body == Body::None {
                        self.open.pop_front();
                    }
                }
                Ok(None) => {}
                Err(()) => self.opaque = true,
            }
        }
    }

    /// Whether all that was asked has been answered in full.
    pub(super) fn is_settled(&self) -> bool {
        let between = |messages: &Messages| messages.body == Body::None && messages.head.is_empty();
        !self.opaque
            && self.asked
            && self.open.is_empty()
            && between(&self.requests)
            && between(&self.answers)
    }

    /// Whether nothing more will come from the server.
    pub(super) fn is_over(&self) -> bool {
        self.closing && self.is_settled()
    }

    /// Whether nothing is known of where anything ends.
    pub(super) fn is_opaque(&self) -> bool {
        self.opaque || !self.asked
    }
}

impl Messages {
    /// Reads a head with `parse`, which gives where it ends; what was read of it is taken off `bytes`.
    fn head<T>(
        &mut self,
        bytes: &mut &[u8],
        parse: impl FnOnce(&[u8]) -> Result<Option<(usize, Body, T)>, ()>,
    ) -> Result<Option<(Body, T)>, ()> {
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        match parse(&self.head)? {
            Some((end, body, said)) => {
                *bytes = &bytes[end.saturating_sub(before)..];
                self.head.clear();
                Ok(Some((body, said)))
            }
            None if self.head.len() > HEAD_MAX => Err(()),
            None => {
                *bytes = &[];
                Ok(None)
            }
        }
    }

    /// Takes what belongs to the body off `bytes`.
    fn pass(&mut self, bytes: &mut &[u8]) {
        match self.body {
            Body::None => {}
            Body::UntilClosed => *bytes = &[],
            Body::Length(left) => {
                let left = take(bytes, left);
                self.body = if left == 0 { Body::None } else { Body::Length(left) };
            }
            Body::Chunked(chunk) => {
                self.body = chunk.pass(bytes).map_or(Body::None, Body::Chunked);
            }
        }
    }
}

/// Takes up to `left` bytes; gives what is left then.
fn take(bytes: &mut &[u8], left: u64) -> u64 {
    let n = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    *bytes = &bytes[n..];
    left - n as u64
}

impl Chunk {
    /// Takes a part of the chunked body off `bytes`; nothing at its end.
    fn pass(self, bytes: &mut &[u8]) -> Option<Chunk> {
        if let Chunk::Data(left) = self {
            let left = take(bytes, left);
            return Some(if left == 0 { Chunk::Size(0) } else { Chunk::Data(left) });
        }
        let Some((byte, rest)) = bytes.split_first() else { return Some(self) };
        *bytes = rest;
        let line_end = |size: u64| match size {
            0 => Chunk::Trailer { empty: true },
            size => Chunk::Data(size.saturating_add(2)),
        };
        Some(match (self, byte) {
            (Chunk::Size(size) | Chunk::Extension(size), b'\n') => line_end(size),
            (Chunk::Size(size), _) => match char::from(*byte).to_digit(16) {
                Some(digit) => Chunk::Size(size.saturating_mul(16).saturating_add(digit.into())),
                None => Chunk::Extension(size),
            },
            (Chunk::Trailer { empty: true }, b'\n') => return None,
            (Chunk::Trailer { .. }, b'\n') => Chunk::Trailer { empty: true },
            (Chunk::Trailer { empty: true }, b'\r') => Chunk::Trailer { empty: true },
            (Chunk::Trailer { .. }, _) => Chunk::Trailer { empty: false },
            (other, _) => other,
        })
    }
}

impl Head {
    /// Fails where the fields leave open how long the body is.
    fn of(fields: &[httparse::Header<'_>]) -> Result<Head, ()> {
        let mut head = Head { body: Body::None, length: None, close: false, keep: false };
        for field in fields {
            let value = str::from_utf8(field.value).unwrap_or_default();
            let mut tokens = value.split(',').map(str::trim);
            if field.name.eq_ignore_ascii_case("transfer-encoding") {
                if tokens.any(|token| token.eq_ignore_ascii_case("chunked")) {
                    head.body = Body::Chunked(Chunk::Size(0));
                }
            } else if field.name.eq_ignore_ascii_case("content-length") {
                let digits = value.trim();
                // Numbers that are parsed may have a sign, too.
                if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(());
                }
                let length = digits.parse().map_err(drop)?;
                if head.length.replace(length).is_some_and(|before| before != length) {
                    return Err(());
                }
            } else if field.name.eq_ignore_ascii_case("connection") {
                for token in tokens {
                    head.close |= token.eq_ignore_ascii_case("close");
                    head.keep |= token.eq_ignore_ascii_case("keep-alive");
                }
            }
        }
        if let (Body::None, Some(length @ 1..)) = (head.body, head.length) {
            head.body = Body::Length(length);
        }
        Ok(head)
    }
}

/// Whether `sent` is one request that may be made twice, or the beginning of its head: of HTTP/1, by a method that RFC 9110
/// calls safe, without a body, and with nothing behind it, which might be a request that may not.
pub(super) fn may_be_repeated(sent: &[u8]) -> bool {
    if !["GET ", "HEAD ", "OPTIONS ", "TRACE "].iter().any(|method| sent.starts_with(method.as_bytes())) {
        return false;
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(sent) {
        Ok(httparse::Status::Complete(end)) => end == sent.len() && is_without_body(request.headers),
        Ok(httparse::Status::Partial) => true,
        Err(_) => false,
    }
}

/// Whether no server can take what comes next for the body of the request with these fields.
fn is_without_body(fields: &[httparse::Header<'_>]) -> bool {
    let coded = fields.iter().any(|field| field.name.eq_ignore_ascii_case("transfer-encoding"));
    !coded && Head::of(fields).is_ok_and(|head| head.body == Body::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known after these bytes, however they are cut.
    #[track_caller]
    fn check(request: &str, answer: &str, settled: bool, over: bool) {
        for cut in [usize::MAX, 1, 7] {
            let mut ends = Ends::default();
            request.as_bytes().chunks(cut.min(request.len())).for_each(|part| ends.request(part));
            answer.as_bytes().chunks(cut.min(answer.len().max(1))).for_each(|part| ends.answer(part));
            assert_eq!((ends.is_settled(), ends.is_over()), (settled, over), "cut by {cut}: {ends:?}");
        }
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    #[test]
    fn an_answer_ends_with_its_length() {
        check(GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", true, false);
        check(GET, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", false, false);
        check(GET, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true, false);
        check(GET, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab", true, true);
        check(GET, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", true, true);
        check(GET, "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab", true, false);
    }

    #[test]
    fn an_answer_ends_with_its_last_chunk() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        check(GET, &format!("{head}5\r\nhello\r\n0\r\n\r\n"), true, true);
        check(
            GET,
            &format!("{head}5;x=y\r\nhello\r\na\r\n0\r\n\r\n0\r\n\r\n\r\n0\r\nA: b\r\n\r\n"),
            true,
            true,
        );
        check(GET, &format!("{head}5\r\nhello\r\n0\r\n"), false, false);
        check(GET, &format!("{head}5\r\nhel"), false, false);
    }

    #[test]
    fn an_answer_whose_length_is_in_doubt_is_not_cut() {
        for length in ["5, 5", "+5", "", "five", "99999999999999999999", "0\r\nContent-Length: 5"] {
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
            check(GET, &head, false, false);
            check(GET, &format!("{head}hello"), false, false);
        }
        let twice = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab";
        check(GET, twice, true, false);
    }

    #[test]
    fn a_chunk_may_claim_any_size() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for size in ["ffffffffffffffff", "fffffffffffffffe", "fffffffffffffffff"] {
            check(GET, &format!("{head}{size}\r\nhello\r\n0\r\n\r\n"), false, false);
        }
    }

    #[test]
    fn an_answer_without_a_length_ends_with_the_connection() {
        check(GET, "HTTP/1.1 200 OK\r\n\r\nab", false, false);
    }

    #[test]
    fn some_answers_have_no_body() {
        let head = "HEAD / HTTP/1.1\r\n\r\n";
        check(head, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", true, false);
        check(GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", true, false);
        check(GET, "HTTP/1.1 100 Continue\r\n\r\n", false, false);
        check(GET, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", true, false);
    }

    #[test]
    fn every_request_is_waited_for() {
        let post = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        check(&format!("{post}{GET}"), ok, false, false);
        check(&format!("{post}{GET}"), &format!("{ok}{ok}"), true, false);
        check("POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabc", ok, false, false);
    }

    #[test]
    fn what_is_not_http_is_not_followed() {
        let switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\0\0";
        check(GET, switched, false, false);
        check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0\0\0", false, false);
        check("\0\0\0\x08\x04\u{d2}\x16\x2f", "N", false, false);
        check("CONNECT a:1 HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nabc", false, false);
    }

    #[test]
    fn only_requests_without_effect_are_repeated() {
        assert!(may_be_repeated(GET.as_bytes()));
        for no in ["POST / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n", "PUT /", "GETX", "", "DELETE /"] {
            assert!(!may_be_repeated(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn only_one_request_without_a_body_is_repeated() {
        let with = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n");
        for part in ["GET ", "HEAD /a", "OPTIONS * HTTP/1.1\r\nHost:", &GET[..GET.len() - 1]] {
            assert!(may_be_repeated(part.as_bytes()), "{part}");
        }
        assert!(may_be_repeated(with("Content-Length: 0").as_bytes()));
        for behind in ["POST / HTTP/1.1\r\n\r\n", "P", "\r\n", GET] {
            assert!(!may_be_repeated(format!("{GET}{behind}").as_bytes()), "{behind}");
        }
        for body in ["Content-Length: 1", "Content-Length: 0, 0", "Transfer-Encoding: chunked"] {
            assert!(!may_be_repeated(with(body).as_bytes()), "{body}");
        }
    }
}
