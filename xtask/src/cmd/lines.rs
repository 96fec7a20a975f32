//! What a program prints, line by line, and the last of it.

use std::collections::VecDeque;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Lines of a failed program's output that its error repeats.
const TAIL_LINES: usize = 25;
/// A longer line is taken for several by who reads lines; what is kept is the program's own bytes.
const LINE_MAX: u64 = 1 << 20;

/// Splits a stream into lines.
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    /// What was read of the next line, kept here because reading may be given up for the other stream.
    partial: Vec<u8>,
    pub(super) done: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(stream: R) -> Self {
        Lines { reader: BufReader::new(stream), partial: Vec::new(), done: false }
    }

    /// The next line with its end, or nothing at the stream's.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        let read = (&mut self.reader).take(LINE_MAX).read_until(b'\n', &mut self.partial).await;
        if !matches!(read, Ok(1..)) {
            self.done = true;
            if self.partial.is_empty() {
                return None;
            }
        }
        Some(std::mem::take(&mut self.partial))
    }
}

/// A line as it is shown: bytes that are not UTF-8 are replaced, of a progress bar's states (`\r`) the last counts.
pub(super) fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    text.rsplit('\r').next().unwrap_or(text).to_owned()
}

/// The last lines of an output.
#[derive(Default)]
pub(super) struct Tail(VecDeque<String>);

impl Tail {
    pub(super) fn push(&mut self, line: String) {
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line);
    }

    pub(super) fn text(&self) -> String {
        Vec::from_iter(self.0.iter().map(String::as_str)).join("\n")
    }
}
