//! Takes secrets out of what is kept: by what a name says, by what Secrets hold, by the shape of tokens and keys.

use std::collections::BTreeSet;
use std::sync::{LazyLock, OnceLock};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use regex::{Captures, Regex};
use serde_json::Value;

/// What stands in the place of a secret.
pub(super) const REDACTED: &str = "[redacted]";
/// A secret shorter than this is taken out only where a name marks it: it could be a part of any word.
const SHORTEST: usize = 6;

const MARKS: &str = r"(?:pass(?:word|wd|phrase)?|pwd|token|secret|(?:api|access|private|secret|signing|encryption|fernet|master|account)[_-]?key|client-key-data|credentials?|dsn|connection[_-]?string)";

/// A name that says that its value is a secret: it ends in one of the words.
static MARKED: LazyLock<Regex> = LazyLock::new(|| regex(&format!(r"(?i)(?:^|[^a-z])?{MARKS}s?$")));
/// `name: value`, `name=value` on a line, in YAML, JSON, flags and logs.
static PAIR: LazyLock<Regex> = LazyLock::new(|| {
    regex(&format!(
        r#"(?i)(?P<name>[a-z0-9_.-]*{MARKS}s?["']?(?:[ \t]*[:=][ \t]*))(?:"(?P<double>[^"\n]+)"|'(?P<single>[^'\n]+)'|(?P<value>[^\s"'&{{}}\[\]|>]+))"#
    ))
});
/// `--name value`.
static FLAG: LazyLock<Regex> =
    LazyLock::new(|| regex(&format!(r"(?i)(?P<name>--[a-z0-9-]*{MARKS}[ \t]+)[^\s-]\S*")));
/// `scheme://user:password@host`; a password may hold an at sign.
static IN_URL: LazyLock<Regex> = LazyLock::new(|| regex(r"(?P<start>://[^/\s:@]*:)(?P<value>[^\s/]+)@"));
/// A JSON web token, such as those of ServiceAccounts.
static TOKEN: LazyLock<Regex> =
    LazyLock::new(|| regex(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"));
static BEARER: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?i)(?P<start>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"));
static PRIVATE_KEY: LazyLock<Regex> = LazyLock::new(|| {
    regex(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)")
});

fn regex(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is a constant")
}

/// Knows the secrets of a run.
#[derive(Debug, Default)]
pub(crate) struct Redactor {
    known: BTreeSet<String>,
    /// Finds all of them at once, until more are learnt.
    search: OnceLock<AhoCorasick>,
}

impl Redactor {
    /// Learns a value that is a secret, as it is and in base64.
    pub(super) fn learn(&mut self, value: &str) {
        let value = value.trim();
        if value.len() >= SHORTEST && !is_plain(value) {
            self.search.take();
            self.known.insert(value.to_owned());
            self.known.insert(STANDARD.encode(value));
            for line in value.lines().map(str::trim).filter(|line| line.len() >= 16) {
                self.known.insert(line.to_owned());
            }
        }
    }

    /// Learns the leaves of a value that is JSON or YAML itself, such as a registry's login.
    fn learn_inside(&mut self, value: &str) {
        let parsed = serde_yaml::from_str::<Value>(value).ok();
        if let Some(parsed) = parsed.filter(|parsed| parsed.is_object() || parsed.is_array()) {
            self.learn_leaves(&parsed);
        }
    }

    fn learn_leaves(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.learn(text),
            Value::Array(values) => values.iter().for_each(|value| self.learn_leaves(value)),
            Value::Object(map) => map.values().for_each(|value| self.learn_leaves(value)),
            _ => {}
        }
    }

    /// Learns what an object holds: a Secret's data, marked values of environments and of ConfigMaps.
    pub(crate) fn learn_object(&mut self, object: &Value) {
        if object.get("kind").and_then(Value::as_str) == Some("Secret") {
            for value in texts(object.get("stringData")) {
                self.learn(value);
                self.learn_inside(value);
            }
            for value in texts(object.get("data")) {
                if let Some(text) =
                    STANDARD.decode(value).ok().and_then(|bytes| String::from_utf8(bytes).ok())
                {
                    self.learn(&text);
                    self.learn_inside(&text);
                }
                self.learn(value);
            }
        }
        self.learn_marked(object);
    }

    fn learn_marked(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                if let (Some(name), Some(secret)) =
                    (map.get("name").and_then(Value::as_str), map.get("value").and_then(Value::as_str))
                    && is_marked(name)
                {
                    self.learn(secret);
                }
                for (key, value) in map {
                    match value.as_str() {
                        Some(text) if is_marked(key) => self.learn(text),
                        _ => self.learn_marked(value),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| self.learn_marked(value)),
            _ => {}
        }
    }

    /// An object without its secrets.
    pub(super) fn object(&self, mut object: Value) -> Value {
        if object.get("kind").and_then(Value::as_str) == Some("Secret") {
            for field in ["data", "stringData"] {
                if let Some(map) = object.get_mut(field).and_then(Value::as_object_mut) {
                    map.values_mut().for_each(|value| *value = REDACTED.into());
                }
            }
        }
        redact_marked(&mut object);
        object
    }

    /// A text without secrets.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut text = PRIVATE_KEY.replace_all(text, REDACTED).into_owned();
        text = TOKEN.replace_all(&text, REDACTED).into_owned();
        text = BEARER.replace_all(&text, format!("${{start}}{REDACTED}")).into_owned();
        text = IN_URL.replace_all(&text, format!("${{start}}{REDACTED}@")).into_owned();
        text = PAIR
            .replace_all(&text, |found: &Captures<'_>| {
                let name = &found["name"];
                let (quote, value) = match (found.name("double"), found.name("single")) {
                    (Some(value), _) => ("\"", value.as_str()),
                    (_, Some(value)) => ("'", value.as_str()),
                    _ => ("", found.name("value").map_or("", |value| value.as_str())),
                };
                if is_plain(value) { found[0].to_owned() } else { format!("{name}{quote}{REDACTED}{quote}") }
            })
            .into_owned();
        text = FLAG.replace_all(&text, format!("${{name}}{REDACTED}")).into_owned();
        self.without_known(&text)
    }

    /// A text without the secrets that were learnt.
    pub(crate) fn without_known(&self, text: &str) -> String {
        let search = self.search.get_or_init(|| {
            // The longest: one secret may begin with another.
            let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&self.known);
            search.expect("secrets are far fewer than 2^31 bytes")
        });
        let mut clean = String::with_capacity(text.len());
        search.replace_all_with(text, &mut clean, |_, _, to| {
            to.push_str(REDACTED);
            true
        });
        clean
    }
}

fn texts(map: Option<&Value>) -> impl Iterator<Item = &str> {
    map.and_then(Value::as_object).into_iter().flat_map(|map| map.values()).filter_map(Value::as_str)
}

fn is_marked(name: &str) -> bool {
    MARKED.is_match(name)
}

/// Values that say nothing: whether, how many, and what is redacted already.
fn is_plain(value: &str) -> bool {
    matches!(value.to_lowercase().as_str(), "true" | "false" | "null" | "none" | "~" | "")
        || value.contains(REDACTED.trim_matches(['[', ']']))
        || value.starts_with("[redacted")
        || (value.len() <= 4 && value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
}

fn redact_marked(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let marked = map.get("name").and_then(Value::as_str).is_some_and(is_marked);
            if marked && map.get("value").is_some_and(Value::is_string) {
                map.insert("value".to_owned(), REDACTED.into());
            }
            for (key, value) in map {
                if value.is_string() && is_marked(key) {
                    *value = REDACTED.into();
                } else {
                    redact_marked(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(redact_marked),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Each of these is planted somewhere; none may be left anywhere.
    const PLANTED: [&str; 15] = [
        "hunter2-the-password",
        "s3cr3t-in-a-secret",
        "dG9wc2VjcmV0LWtleQ",
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl",
        "urlpassw0rd",
        "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
        "flag-token-value",
        "shrt",
        "bearer-value-1234",
        "p@ss,word&x",
        "after-a-flag",
        "fernet-abcdef",
        "aside-in-a-url",
        "inside-json",
        "81726354",
    ];

    fn redactor() -> Redactor {
        let mut redactor = Redactor::default();
        redactor.learn_object(&json!({
            "kind": "Secret",
            "data": {"a": STANDARD.encode("s3cr3t-in-a-secret")},
            "stringData": {"b": "dG9wc2VjcmV0LWtleQ", ".dockerconfigjson": "{\"auths\": {\"r\": {\"auth\": \"inside-json\"}}}"},
        }));
        redactor.learn_object(&json!({"kind": "Pod", "spec": {"containers": [
            {"env": [{"name": "PG_PASSWORD", "value": "hunter2-the-password"}, {"name": "PG_USER", "value": "dagster"}]}
        ]}}));
        redactor
    }

    #[track_caller]
    fn nothing_left(text: &str) {
        for secret in PLANTED {
            assert!(!text.contains(secret), "{secret} is left in {text}");
        }
    }

    #[test]
    fn nothing_that_was_planted_is_left_in_a_log() {
        let log = "connecting with hunter2-the-password
the secret is s3cr3t-in-a-secret, or dG9wc2VjcmV0LWtleQ
token eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl
postgresql://dagster:urlpassw0rd@db:5432/x
-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASC
-----END PRIVATE KEY-----
--api-token=flag-token-value password: 'shrt'
Authorization: Bearer bearer-value-1234
DB_PASS=\"p@ss,word&x\" --token after-a-flag fernetKey: fernet-abcdef
redis://u:pa@aside-in-a-url@host the login is inside-json, password: 81726354
";
        let text = redactor().text(log);
        nothing_left(&text);
        assert!(text.contains("postgresql://dagster:[redacted]@db:5432/x"), "{text}");
        assert!(text.contains("password: '[redacted]'"), "{text}");
    }

    #[test]
    fn nothing_that_was_planted_is_left_in_an_object() {
        let redactor = redactor();
        let objects = [
            json!({"kind": "Secret", "data": {"a": STANDARD.encode("s3cr3t-in-a-secret"), "b": "c2hydA=="}}),
            json!({"kind": "Pod", "env": [{"name": "API_TOKEN", "value": "shrt"}]}),
            json!({"kind": "ConfigMap", "data": {"db-password": "shrt", "conf": "url=postgres://u:urlpassw0rd@h"}}),
        ];
        for object in objects {
            let text = redactor.text(&serde_yaml::to_string(&redactor.object(object)).unwrap());
            nothing_left(&text);
            assert!(!text.contains("c2hydA=="), "{text}");
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        let text = "automountServiceAccountToken: true\nsecretName: db\ntokenExpirationSeconds: 3607\nuser: dagster\n\
                    image: k8s-test.local/dagster-test:1";
        assert_eq!(redactor().text(text), text);
    }
}
