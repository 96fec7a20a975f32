//! `schema`: what may stand in the files of a workspace, for editors.

use std::io::Write;

use anyhow::Result;
use schemars::schema_for;
use serde_json::Value;

use crate::cli::SchemaOf;
use crate::config::cuts::CutsFile;
use crate::config::sabotage::SabotageFile;
use crate::config::{ImagesFile, SuiteFile};
use crate::exit::Exit;

pub(super) fn run(file: SchemaOf) -> Result<Exit> {
    // A reader that has gone (`| head`) is no failure of ours.
    let _ = std::io::stdout().write_all(schema(file)?.as_bytes());
    Ok(Exit::Passed)
}

fn schema(file: SchemaOf) -> Result<String> {
    let mut schema = match file {
        SchemaOf::Suite => schema_for!(SuiteFile),
        SchemaOf::Images => schema_for!(ImagesFile),
        SchemaOf::Sabotage => schema_for!(SabotageFile),
        SchemaOf::Cuts => schema_for!(CutsFile),
    }
    .to_value();
    forget_defaults(&mut schema);
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

/// Takes the defaults away: editors would write them out, and durations among them in another form than files have.
fn forget_defaults(schema: &mut Value) {
    match schema {
        Value::Object(keys) => {
            // A property may have this name too; what is then below it is a schema.
            if keys.get("default").is_none_or(|default| default.get("type").is_none()) {
                keys.remove("default");
            }
            keys.values_mut().for_each(forget_defaults);
        }
        Value::Array(values) => values.iter_mut().for_each(forget_defaults),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Workspace;

    #[track_caller]
    fn is_kept(file: SchemaOf, name: &str) {
        let path = Workspace::here().ci().join("schema").join(name);
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        let by = format!("cargo xtask schema {} >ci/schema/{name}", name.trim_end_matches(".json"));
        assert_eq!(kept, schema(file).unwrap(), "{path} is old; write it anew by `{by}`");
    }

    #[test]
    fn the_schemas_in_ci_are_those_of_the_types() {
        is_kept(SchemaOf::Suite, "suite.json");
        is_kept(SchemaOf::Images, "images.json");
        is_kept(SchemaOf::Sabotage, "sabotage.json");
        is_kept(SchemaOf::Cuts, "cuts.json");
    }

    #[test]
    fn a_schema_refuses_unknown_keys_and_says_what_the_known_ones_mean() {
        let schema: serde_json::Value = serde_json::from_str(&schema(SchemaOf::Suite).unwrap()).unwrap();
        assert_eq!(schema["additionalProperties"], false);
        let release = &schema["$defs"]["Release"];
        assert_eq!(release["additionalProperties"], false);
        assert_eq!(
            release["properties"]["chart"]["description"],
            "The chart's folder, or its package, a .tgz."
        );
    }
}
