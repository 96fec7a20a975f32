//! What a person or a script types while `up` or `dev` runs: keys on a terminal, lines from a pipe.

use std::io::{IsTerminal, Read, Stdin, stdin};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `r`.
    Rerun,
    /// `q`.
    Quit,
}

/// The keys typed so far and later.
pub struct Keys {
    typed: UnboundedReceiver<Key>,
    _terminal: Option<Terminal>,
}

impl Keys {
    /// Listens to standard input, of which a thread takes all from now on.
    #[must_use]
    pub fn listen() -> Keys {
        let (send, typed) = unbounded_channel();
        let input = stdin();
        let is_terminal = input.is_terminal();
        // A terminal that belongs to somebody else in front would stop us for reading from it.
        let is_ours = is_terminal && tcgetpgrp(&input).is_ok_and(|front| front == getpgrp());
        let terminal = if is_ours { Terminal::take(&input) } else { None };
        if is_ours || !is_terminal {
            std::thread::spawn(move || read(input, is_terminal, &send));
        }
        Keys { typed, _terminal: terminal }
    }

    /// The next key; never, once standard input has ended.
    pub async fn next(&mut self) -> Key {
        match self.typed.recv().await {
            Some(key) => key,
            None => std::future::pending().await,
        }
    }
}

/// A terminal that hands over each key at once and does not show it, until this is dropped.
struct Terminal(Termios);

impl Terminal {
    fn take(input: &Stdin) -> Option<Terminal> {
        let before = tcgetattr(input).ok()?;
        let mut modes = before.clone();
        // Ctrl-C stays a signal.
        modes.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        tcsetattr(input, SetArg::TCSANOW, &modes).ok()?;
        Some(Terminal(before))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Sends the keys of `input` until it ends; from a pipe a key is a line of its own.
fn read(mut input: impl Read, is_terminal: bool, send: &UnboundedSender<Key>) {
    let mut line = Vec::new();
    let mut byte = [0];
    while let Ok(1) = input.read(&mut byte) {
        if is_terminal || byte[0] != b'\n' {
            line.push(byte[0]);
        }
        if !is_terminal && byte[0] != b'\n' {
            continue;
        }
        let key = match line.trim_ascii() {
            b"r" | b"R" => Some(Key::Rerun),
            b"q" | b"Q" => Some(Key::Quit),
            _ => None,
        };
        line.clear();
        if let Some(key) = key
            && send.send(key).is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn typed(text: &str, is_terminal: bool) -> Vec<Key> {
        let (send, mut typed) = unbounded_channel();
        read(text.as_bytes(), is_terminal, &send);
        drop(send);
        let mut keys = Vec::new();
        while let Some(key) = typed.recv().await {
            keys.push(key);
        }
        keys
    }

    #[tokio::test]
    async fn on_a_terminal_each_key_counts() {
        assert_eq!(typed("rxRq", true).await, [Key::Rerun, Key::Rerun, Key::Quit]);
    }

    #[tokio::test]
    async fn from_a_pipe_each_line_counts() {
        assert_eq!(typed("r\nrun\nquery\r\nq\r\nr", false).await, [Key::Rerun, Key::Quit]);
    }
}
