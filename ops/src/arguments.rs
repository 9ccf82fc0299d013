//! What a command is told: flags over environment over a file over defaults.
//!
//! *Invariants*: every flag `--some-name` is `ENGRAM_SOME_NAME` and `some-name` in the file; an empty
//! variable counts as unset; a name that no command knows is an error, except for the variables that
//! Kubernetes sets for services.
//!
//! *Not here*: what each command does with them (`commands`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches, Parser};

use crate::commands::Subcommand;
use crate::failure::Failure;

/// The prefix of the variables.
const PREFIX: &str = "ENGRAM_";
/// Variables without a flag of their name.
const OTHER_VARIABLES: [&str; 1] = ["ENGRAM_LOG"];

/// The `engram` command.
#[derive(Debug, Parser)]
#[command(
    name = "engram",
    bin_name = "engram",
    version,
    about = "An associative memory server: store memories, link them, recall what comes to mind",
    after_help = "Every flag --some-name may be given as ENGRAM_SOME_NAME or, in the TOML file of \
                  --config, as some-name. Flags win over variables, variables over the file.\n\n\
                  Exit status: 0 done, 1 failed, 2 wrong usage, 3 the server can't be reached, \
                  78 the machine lacks something, 130 interrupted.",
    disable_help_subcommand = true
)]
pub struct Engram {
    /// File of settings (TOML; keys are named like flags)
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Subcommand,
}

/// Arguments that were understood, and where each came from.
pub struct Arguments {
    /// What to do, with the values of its flags.
    pub engram: Engram,
    /// Where the values of the subcommand came from.
    pub origins: Origins,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag.
    Flag,
    /// This variable.
    Variable(String),
    /// This file.
    File(PathBuf),
    /// Nobody gave it.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Variable(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Origins by the name of the flag.
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where the value of the flag came from.
    pub fn of(&self, flag: &str) -> Origin {
        self.0.get(flag).cloned().unwrap_or(Origin::Default)
    }

    /// Somebody gave the flag a value.
    pub fn is_given(&self, flag: &str) -> bool {
        self.of(flag) != Origin::Default
    }
}

/// Why there are no arguments to work with.
pub enum Refused {
    /// clap's own text: help, version or wrong usage.
    Shown(clap::Error),
    /// A file or a variable is not right.
    Failed(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Reads the command line, the environment and the file.
///
/// # Errors
/// What to show instead of working.
pub fn read(mut words: Vec<OsString>) -> Result<Arguments, Refused> {
    // `docker run IMAGE engram load` gives the name twice, since the image starts it by itself.
    if words.get(1).is_some_and(|word| word == "engram") {
        words.remove(1);
    }
    let file = settings_file(&words).map(Settings::read).transpose()?;
    let plain = Engram::command();
    let flags = flags_of(&plain);
    if let Some(file) = &file {
        file.refuse_unknown(&flags)?;
    }
    let command = with_layers(plain, file.as_ref());
    let matches = command.try_get_matches_from(words).map_err(Refused::Shown)?;
    let engram = Engram::from_arg_matches(&matches).map_err(Refused::Shown)?;
    if engram.command.is_strict() {
        refuse_unknown_variables(&flags)?;
    }
    let origins = origins_of(&matches, file.as_ref());
    Ok(Arguments { engram, origins })
}

/// The whole command with the names of its variables, for help, manual and completions.
pub fn command() -> Command {
    with_layers(Engram::command(), None)
}

/// The variable of a flag.
pub fn variable(flag: &str) -> String {
    format!("{PREFIX}{}", flag.replace('-', "_").to_uppercase())
}

fn settings_file(words: &[OsString]) -> Option<PathBuf> {
    for (at, word) in words.iter().enumerate() {
        if word == "--config" {
            return words.get(at + 1).map(PathBuf::from);
        }
        if let Some(path) = word.to_str().and_then(|word| word.strip_prefix("--config=")) {
            return Some(path.into());
        }
    }
    std::env::var_os("ENGRAM_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The settings of a file, as the text that a flag would have.
struct Settings {
    path: PathBuf,
    values: BTreeMap<String, String>,
}

impl Settings {
    fn read(path: PathBuf) -> Result<Self, Failure> {
        let shown = path.display();
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Failure::usage(format!("the settings file {shown} can't be read")).with_source(error)
        })?;
        let table: toml::Table = toml::from_str(&text).map_err(|error| {
            Failure::usage(format!("the settings file {shown} is no TOML: {error}"))
        })?;
        let mut values = BTreeMap::new();
        for (key, value) in table {
            let text = setting_text(&value).ok_or_else(|| {
                let detail = format!("{shown}: `{key}` is a {}", value.type_str());
                Failure::usage(detail).with_hint("settings are strings, numbers or booleans")
            })?;
            values.insert(key.replace('_', "-"), text);
        }
        Ok(Self { path, values })
    }

    fn refuse_unknown(&self, flags: &BTreeSet<String>) -> Result<(), Failure> {
        let Some(key) = self.values.keys().find(|key| !flags.contains(*key)) else { return Ok(()) };
        let detail = format!("{}: there is no setting `{key}`", self.path.display());
        Err(Failure::usage(detail).with_hint(nearest(key, flags.iter().map(String::as_str))))
    }
}

fn setting_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(boolean) => Some(boolean.to_string()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}

/// Every flag of every command.
fn flags_of(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|arg| arg.get_long());
    let mut flags: BTreeSet<String> = own.map(str::to_owned).collect();
    for sub in command.get_subcommands() {
        flags.extend(flags_of(sub));
    }
    flags
}

/// Gives every flag its variable, and the value of the file as its default.
fn with_layers(command: Command, file: Option<&Settings>) -> Command {
    let file_values = file.map(|file| &file.values);
    command.mut_args(|arg| layered(arg, file_values)).mut_subcommands(|sub| {
        sub.mut_args(|arg| layered(arg, file_values)).disable_help_subcommand(true)
    })
}

fn layered(arg: clap::Arg, file: Option<&BTreeMap<String, String>>) -> clap::Arg {
    let Some(long) = arg.get_long().map(str::to_owned) else { return arg };
    if matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpLong | ArgAction::Version) {
        return arg;
    }
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let arg = if is_switch { arg.value_parser(BoolishValueParser::new()) } else { arg };
    let mut name = variable(&long);
    if long == "log-level" && is_empty(&name) {
        name = OTHER_VARIABLES[0].to_owned();
    }
    let arg = if is_empty(&name) && std::env::var_os(&name).is_some() {
        arg
    } else {
        arg.env(name).hide_env_values(true)
    };
    match file.and_then(|values| values.get(&long)) {
        Some(value) => arg.default_value(value.clone()).required(false),
        None => arg,
    }
}

fn is_empty(variable: &str) -> bool {
    std::env::var_os(variable).is_none_or(|value| value.is_empty())
}

fn origins_of(matches: &ArgMatches, file: Option<&Settings>) -> Origins {
    let mut origins = BTreeMap::new();
    let Some((_, matches)) = matches.subcommand() else { return Origins(origins) };
    for id in matches.ids() {
        let flag = id.as_str().replace('_', "-");
        let origin = match matches.value_source(id.as_str()) {
            Some(ValueSource::CommandLine) => Origin::Flag,
            Some(ValueSource::EnvVariable) => Origin::Variable(set_variable(&flag)),
            _ => match file.filter(|file| file.values.contains_key(&flag)) {
                Some(file) => Origin::File(file.path.clone()),
                None => Origin::Default,
            },
        };
        origins.insert(flag, origin);
    }
    Origins(origins)
}

fn set_variable(flag: &str) -> String {
    let name = variable(flag);
    if flag == "log-level" && is_empty(&name) { OTHER_VARIABLES[0].to_owned() } else { name }
}

fn refuse_unknown_variables(flags: &BTreeSet<String>) -> Result<(), Failure> {
    let known: BTreeSet<String> =
        flags.iter().map(|flag| variable(flag)).chain(OTHER_VARIABLES.map(str::to_owned)).collect();
    for (name, value) in std::env::vars_os() {
        let (Some(name), value) = (name.to_str(), value.to_string_lossy()) else { continue };
        let ours = name.starts_with(PREFIX) && !known.contains(name);
        if ours && !is_service_link(name, &value) {
            let hint = nearest(name, known.iter().map(String::as_str));
            return Err(Failure::usage(format!("there is no setting {name}")).with_hint(hint));
        }
    }
    Ok(())
}

/// A Service named `engram` makes Kubernetes set such variables in every pod of its namespace.
fn is_service_link(name: &str, value: &str) -> bool {
    let address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let port_part = ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
        let part = |end: &str| name.ends_with(&format!("{protocol}{end}"));
        part("") || part("_PROTO") || part("_PORT") || part("_ADDR")
    });
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.contains("_PORT") && (address || port_part))
}

fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> String {
    let close = names.min_by_key(|name| distance(wrong, name)).unwrap_or_default();
    format!("did you mean `{close}`? `engram config` shows every setting")
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_service_links_are_told_from_settings() {
        for (name, value) in [
            ("ENGRAM_PORT", "tcp://10.0.0.1:8080"),
            ("ENGRAM_SERVICE_HOST", "10.0.0.1"),
            ("ENGRAM_SERVICE_PORT_HTTP", "8080"),
            ("ENGRAM_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("ENGRAM_HEADLESS_PORT", "tcp://10.0.0.2:8080"),
        ] {
            assert!(is_service_link(name, value), "{name}={value}");
        }
        assert!(!is_service_link("ENGRAM_DATADIR", "/data"));
        assert!(!is_service_link("ENGRAM_PORT", "8080"));
    }

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }
}
