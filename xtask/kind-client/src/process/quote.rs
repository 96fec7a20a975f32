//! Quotes the words of a command for a POSIX shell.

/// The word as it can be pasted: in single quotes if it has anything that a shell might interpret.
pub(super) fn word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::word;

    #[test]
    fn quotes_only_what_a_shell_would_interpret() {
        assert_eq!(word("--name=a/b:c,d"), "--name=a/b:c,d");
        assert_eq!(word(""), "''");
        assert_eq!(word("two words"), "'two words'");
        assert_eq!(word("{{.State.Running}}"), "'{{.State.Running}}'");
        assert_eq!(word("it's $HOME"), r"'it'\''s $HOME'");
    }
}
