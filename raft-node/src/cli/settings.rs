//! Settings on the command line: `--config`, and a flag for every setting; `config check|show`.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Subcommand};
use raft_node::config::{ConfigRefused, FIELDS, Layers, Origin, Settings};
use serde_json::json;

use crate::cli::exit::{CliError, Exit};
use crate::cli::output::{self, Format};

/// Where the settings of a node come from.
#[derive(Clone, Debug, Args)]
pub(crate) struct SettingsArgs {
    /// The configuration file (TOML).
    #[arg(long, env = "RAFT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: SettingFlags,
}

/// One flag per setting, out of the table of all settings.
#[derive(Clone, Debug, Default)]
struct SettingFlags(Vec<(&'static str, String)>);

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        FIELDS.iter().fold(command, |command, field| {
            let default = field.default.map_or(String::new(), |default| format!(" [default: {default}]"));
            let help = format!("{} [env: {}]{default}", field.meaning, field.variable());
            command.arg(Arg::new(field.key).long(field.flag()).value_name("VALUE").help(help).help_heading("Settings"))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |key: &'static str| matches.get_one::<String>(key).map(|text| (key, text.clone()));
        Ok(Self(FIELDS.iter().filter_map(|field| given(field.key)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl SettingsArgs {
    /// The merged settings, or everything that is wrong with one of them.
    pub(crate) fn merged(&self) -> Result<Layers, ConfigRefused> {
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Layers::merge(self.config.as_deref(), environment, &self.flags.0)
    }

    fn layers(&self) -> Result<Layers, CliError> {
        self.merged().map_err(|refused| CliError::new(Exit::Config, refused.to_string()))
    }

    /// Whether anybody said which node this is about: by a file, by flags, or by the environment.
    pub(crate) fn given(&self) -> bool {
        let named = || self.merged().is_ok_and(|layers| layers.value("data_dir").is_some());
        self.config.is_some() || !self.flags.0.is_empty() || named()
    }

    /// The merged and checked settings.
    pub(crate) fn settings(&self) -> Result<(Settings, Layers), CliError> {
        let mut layers = self.layers()?;
        let settings =
            Settings::new(&mut layers).map_err(|refused| CliError::new(Exit::Config, refused.to_string()))?;
        Ok((settings, layers))
    }
}

/// Checks or shows the configuration without starting a node.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Says whether `start` would take these settings. Reads the certificates too.
    Check {
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Prints every setting and where its value came from.
    Show {
        #[command(flatten)]
        settings: SettingsArgs,
        /// How the result is shown.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

impl ConfigArgs {
    pub(crate) fn run(self) -> Result<(), CliError> {
        match self.command {
            ConfigCommand::Check { settings } => check(&settings),
            ConfigCommand::Show { settings, output } => show(&settings, output),
        }
    }
}

fn check(args: &SettingsArgs) -> Result<(), CliError> {
    let (settings, _) = args.settings()?;
    let refused = |error: &dyn std::fmt::Display| CliError::new(Exit::Config, error.to_string());
    raft_node::product::check_files(&settings).map_err(|error| refused(&error))?;
    output::line(format!("the configuration of {} is fine", settings.name))
}

/// Shows what there is, also when it does not hold yet: then it ends with what is wrong.
fn show(args: &SettingsArgs, format: Format) -> Result<(), CliError> {
    let mut layers = args.layers()?;
    let checked = Settings::new(&mut layers);
    let origin = |key| layers.origin(key).map_or_else(|| "not set".to_owned(), Origin::to_string);
    match format {
        Format::Table => {
            let rows: Vec<Vec<String>> = FIELDS
                .iter()
                .map(|field| {
                    let value = layers.value(field.key).map_or_else(|| "-".into(), ToString::to_string);
                    vec![field.key.into(), value, origin(field.key)]
                })
                .collect();
            output::bytes(output::table(&["SETTING", "VALUE", "FROM"], &rows).as_bytes())?;
        }
        Format::Json => {
            let settings: serde_json::Map<String, serde_json::Value> = FIELDS
                .iter()
                .map(|field| {
                    let value = layers.value(field.key).map(ToString::to_string);
                    (field.key.to_owned(), json!({ "value": value, "from": origin(field.key) }))
                })
                .collect();
            output::json(&settings)?;
        }
    }
    checked.map(|_| ()).map_err(|refused| CliError::new(Exit::Config, refused.to_string()))
}
