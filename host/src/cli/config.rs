//! `astrid config`: what the host runs with and who said so, whether `etc/config.toml` would be taken, and having it read
//! again.

use std::fmt::Write as _;

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::failure::{Exit, Failure};
use super::{Context, table, text};
use crate::config::Config;
use crate::http::tls::Tls;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Show every key with its value and where it came from: flag, file, env, derived or default
    Show {
        /// Read the home's file and this environment instead of asking the host
        #[arg(long)]
        offline: bool,
    },
    /// Check the home's etc/config.toml and the files that it names, with this environment; no host is needed
    Check,
    /// Print where the file is; no host is needed
    Path,
    /// Let the host read its configuration again, and show what became of each key that has changed
    Reload,
}

#[derive(Deserialize, Serialize)]
struct Settings {
    settings: Vec<Setting>,
}

#[derive(Deserialize, Serialize)]
struct Setting {
    key: String,
    value: String,
    source: String,
}

#[derive(Deserialize)]
struct Reloaded {
    changes: Vec<Change>,
}

#[derive(Deserialize)]
struct Change {
    key: String,
    before: String,
    value: String,
    source: String,
    applied: bool,
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self {
            Verb::Show { offline: false } => {
                let answer = context.client.get("read the configuration", "/api/sys/config").await?;
                if context.console.json {
                    context.console.document(&answer.body)?;
                } else {
                    let settings: Settings = answer.read()?;
                    context.console.print(&rows(&settings))?;
                }
            }
            Verb::Show { offline: true } => {
                let settings = read(context, "read the configuration")?;
                if context.console.json {
                    let document = serde_json::to_string(&settings).expect("plain texts serialise");
                    context.console.document(document.as_bytes())?;
                } else {
                    context.console.print(&rows(&settings))?;
                }
            }
            Verb::Check => {
                let settings = checked(context)?.settings;
                let set = settings.iter().filter(|s| s.source == "file" || s.source == "env").count();
                let file = context.home.config();
                if context.console.json {
                    let document = serde_json::json!({ "file": file.to_string_lossy(), "set": set });
                    context.console.document(document.to_string().as_bytes())?;
                } else {
                    let mut text = format!("{} is fine", file.display());
                    if !file.exists() {
                        text = format!("there is no {}, and none is needed", file.display());
                    }
                    let _ = write!(text, "; {set} of {} keys are set there or in the environment", settings.len());
                    context.console.print(&text)?;
                }
            }
            Verb::Path => {
                let file = context.home.config();
                if context.console.json {
                    let document = serde_json::json!({ "file": file.to_string_lossy(), "exists": file.exists() });
                    context.console.print(&document.to_string())?;
                } else {
                    context.console.print(&text::shown(&file.to_string_lossy()))?;
                }
            }
            Verb::Reload => reload(context).await?,
        }
        Ok(Exit::Done)
    }
}

async fn reload(context: &mut Context<'_>) -> Result<(), Failure> {
    let what = "have the configuration read again";
    let answer = context.client.post(what, "/api/sys/config/reload", "{}".to_owned()).await?;
    if context.console.json {
        return context.console.document(&answer.body);
    }
    let Reloaded { changes } = answer.read()?;
    if changes.is_empty() {
        return context.console.print("nothing has changed");
    }
    let rows: Vec<[String; 5]> = changes
        .iter()
        .map(|c| {
            let became = if c.applied { "in force" } else { "needs a restart" };
            [c.key.clone(), c.before.clone(), c.value.clone(), c.source.clone(), became.to_owned()]
        })
        .collect();
    context.console.print(&table::table(["KEY", "WAS", "IS NOW", "FROM", ""], &rows))
}

/// As a host that starts now without flags would run, with the certificates that it would use.
fn checked(context: &Context<'_>) -> Result<Settings, Failure> {
    let what = "take the configuration";
    let config = load(context).map_err(|failure| failure.doing(what))?;
    Tls::open(&config.http.tls, &context.home.etc())
        .map_err(|error| Failure::failed("invalid", format!("{error:#}")).doing(what))?;
    Ok(settings(&config))
}

fn read(context: &Context<'_>, what: &str) -> Result<Settings, Failure> {
    load(context).map(|config| settings(&config)).map_err(|failure| failure.doing(what))
}

fn load(context: &Context<'_>) -> Result<Config, Failure> {
    Config::load(&context.home.config(), &[], crate::home::environment())
        .map_err(|error| Failure::failed("invalid", format!("{error:#}")))
}

fn settings(config: &Config) -> Settings {
    let setting = |s: crate::config::Setting| Setting { key: s.key, value: s.value, source: s.source.to_owned() };
    Settings { settings: config.settings().into_iter().map(setting).collect() }
}

fn rows(settings: &Settings) -> String {
    let rows: Vec<[String; 3]> =
        settings.settings.iter().map(|s| [s.key.clone(), s.value.clone(), s.source.clone()]).collect();
    table::table(["KEY", "VALUE", "FROM"], &rows)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::testing::{Host, astrid, home};

    #[test]
    fn the_hosts_own_configuration_is_shown_with_its_sources() {
        let document = r#"{"settings":[{"key":"runtime.instances","value":"64","source":"flag"}]}"#;
        let host = Host::answering(200, document);
        let ran = host.astrid(&["config", "show"]);
        assert_eq!(ran.out, "KEY                VALUE  FROM\nruntime.instances  64     flag\n");
        assert_eq!(host.astrid(&["config", "show", "--json"]).out, format!("{document}\n"));
        assert_eq!(host.requests(), ["GET /api/sys/config"; 2]);
    }

    #[test]
    fn the_path_of_the_file_is_said_whether_it_is_there_or_not() {
        let (_dir, home) = home();
        let file = home.config();
        assert_eq!(astrid(&home, &["config", "path"]).out, format!("{}\n", file.display()));
        assert!(astrid(&home, &["config", "path", "--json"]).out.contains("\"exists\":false"));
    }

    #[test]
    fn of_each_key_that_has_changed_it_is_said_whether_it_is_in_force() {
        let document = r#"{"changes":[{"key":"bus.max-depth","before":"16","value":"8","source":"file","applied":false},{"key":"log.level","before":"info","value":"debug","source":"file","applied":true}]}"#;
        let host = Host::answering(200, document);
        let ran = host.astrid(&["config", "reload"]);
        let lines: Vec<&str> = ran.out.lines().collect();
        assert!(lines[1].starts_with("bus.max-depth  16    8") && lines[1].ends_with("needs a restart"), "{ran:?}");
        assert!(lines[2].starts_with("log.level") && lines[2].ends_with("in force"), "{ran:?}");
        assert_eq!(host.requests(), ["POST /api/sys/config/reload {}"]);
        assert_eq!(
            Host::answering(200, r#"{"changes":[]}"#).astrid(&["config", "reload"]).out,
            "nothing has changed\n"
        );
    }

    #[test]
    fn offline_the_file_is_read_and_what_is_wrong_with_it_is_said() {
        let (_dir, home) = home();
        assert!(astrid(&home, &["config", "check"]).out.starts_with("there is no "));
        fs::create_dir_all(home.config().parent().unwrap()).unwrap();
        fs::write(home.config(), "[runtime]\ninstances = 64\n").unwrap();
        let shown = astrid(&home, &["config", "show", "--offline"]).out;
        let line =
            |key: &str| shown.lines().find(|l| l.starts_with(key)).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(line("runtime.instances"), ["runtime.instances", "64", "file"]);
        assert_eq!(line("runtime.blocking")[2], "derived");
        assert_eq!(line("log.level"), ["log.level", "info", "default"]);
        let checked = astrid(&home, &["config", "check", "--json"]).out;
        assert!(checked.contains("\"set\":1"), "{checked}");
        fs::write(home.config(), "[http.tls]\ncert = \"none.pem\"\nkey = \"none.pem\"\n").unwrap();
        let ran = astrid(&home, &["config", "check"]);
        assert!(ran.exit == Exit::Failed && ran.err.contains("none.pem"), "{ran:?}");
        fs::write(home.config(), "[runtime]\ninstanecs = 64\n").unwrap();
        for verb in [&["config", "check"][..], &["config", "show", "--offline"]] {
            let ran = astrid(&home, verb);
            assert_eq!(ran.exit, Exit::Failed);
            assert!(ran.err.contains("did you mean `instances`?") && ran.err.contains("config.toml"), "{}", ran.err);
        }
    }
}
