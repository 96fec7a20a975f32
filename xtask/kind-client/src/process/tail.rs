//! Reads a program's standard error line by line and keeps its end.

use std::collections::VecDeque;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

const LINES: usize = 20;
const LINE_BYTES: usize = 2000;

/// The last lines of an output, in bounded memory whatever comes.
#[derive(Default)]
pub(super) struct Tail {
    lines: VecDeque<String>,
}

impl Tail {
    /// Reads `source` to its end, and sends each line to `lines` as long as somebody receives them.
    pub(super) async fn read(
        &mut self,
        mut source: impl AsyncRead + Unpin,
        mut lines: Option<mpsc::Sender<String>>,
    ) {
        let mut chunk = vec![0; 8192];
        let mut line = Line::default();
        loop {
            // A pipe that cannot be read any more has ended for us.
            let length = source.read(&mut chunk).await.unwrap_or(0);
            let mut ended = Vec::new();
            for &byte in &chunk[..length] {
                match byte {
                    // Programs draw over a line with carriage returns: each drawing is a line here.
                    b'\n' | b'\r' => ended.extend(line.take()),
                    byte => line.push(byte),
                }
            }
            if length == 0 {
                ended.extend(line.take());
            }
            for text in ended {
                self.push(text.clone());
                if let Some(sender) = &lines
                    && sender.send(text).await.is_err()
                {
                    lines = None;
                }
            }
            if length == 0 {
                return;
            }
        }
    }

    pub(super) fn into_lines(self) -> Box<[String]> {
        self.lines.into_iter().collect()
    }

    fn push(&mut self, line: String) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

/// A line in the making: its first [`LINE_BYTES`].
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Line {
    fn push(&mut self, byte: u8) {
        if self.bytes.len() < LINE_BYTES {
            self.bytes.push(byte);
        } else {
            self.is_cut = true;
        }
    }

    /// The line, if there is anything to see on it.
    fn take(&mut self) -> Option<String> {
        let Self { bytes, is_cut } = std::mem::take(self);
        let mut text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if is_cut {
            text.push('…');
        }
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_BYTES, LINES, Tail};
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn keeps_the_last_lines() {
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let mut tail = Tail::default();
        tail.read(text.as_bytes(), None).await;
        let lines = tail.into_lines();
        assert_eq!(lines.len(), LINES);
        assert_eq!((lines[0].as_str(), lines[LINES - 1].as_str()), ("line 80", "line 99"));
    }

    #[tokio::test]
    async fn cuts_a_long_line() {
        let text = "x".repeat(1_000_000);
        let mut tail = Tail::default();
        tail.read(text.as_bytes(), None).await;
        assert_eq!(*tail.into_lines(), ["x".repeat(LINE_BYTES) + "…"]);
    }

    #[tokio::test]
    async fn sends_lines_without_empty_ones() {
        let (sender, mut lines) = mpsc::channel(10);
        let mut tail = Tail::default();
        tail.read(&b"one\r\n\n  two  \rthr\xffee"[..], Some(sender)).await;
        assert_eq!(lines.recv().await.unwrap(), "one");
        assert_eq!(lines.recv().await.unwrap(), "  two");
        assert_eq!(lines.recv().await.unwrap(), "thr\u{fffd}ee");
        assert!(lines.recv().await.is_none());
    }
}
