//! `potluck completions` and `potluck man`: made from the definitions of the commands.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::arguments::Cli;
use crate::exit::{Doing, Exit, Failure};
use crate::output::{Output, count, print};

/// Prints a completion script for a shell
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  potluck completions bash > /usr/share/bash-completion/completions/potluck
  potluck completions zsh > /usr/share/zsh/vendor-completions/_potluck
  potluck completions fish > ~/.config/fish/completions/potluck.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_parser = clap::builder::PossibleValuesParser::new(["bash", "zsh", "fish"]))]
    shell: String,
}

/// Writes manual pages into a directory
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  potluck man /usr/local/share/man/man1 && man potluck-publish")]
pub(crate) struct ManArgs {
    /// The directory; made if it does not exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(crate) fn completions(args: &CompletionsArgs) -> Result<Exit, Failure> {
    let shell: Shell = args.shell.parse().map_err(Failure::new)?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "potluck", &mut script);
    print(&script)?;
    Ok(Exit::Ok)
}

pub(crate) fn man(args: &ManArgs, output: Output) -> Result<Exit, Failure> {
    let directory = &args.directory;
    std::fs::create_dir_all(directory).doing(|| format!("making the directory {}", directory.display()))?;
    let mut written = Vec::new();
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    page(&cli, "potluck", directory, &mut written)?;
    for command in cli.get_subcommands().filter(|command| !command.is_hide_set()) {
        page(
            command,
            &format!("potluck-{}", command.get_name()),
            directory,
            &mut written,
        )?;
    }
    output.result(&written, |_| {
        format!(
            "wrote {} into {}",
            count(written.len() as u64, "manual page"),
            directory.display()
        )
    })?;
    Ok(Exit::Ok)
}

fn page(command: &clap::Command, name: &str, directory: &Path, written: &mut Vec<String>) -> Result<(), Failure> {
    let file = format!("{name}.1");
    let path = directory.join(&file);
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut text)
        .doing(|| format!("making {file}"))?;
    std::fs::write(&path, text).doing(|| format!("writing {}", path.display()))?;
    written.push(file);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_every_command_and_none_for_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        let args = ManArgs {
            directory: dir.path().join("man1"),
        };
        let output = Output {
            json: false,
            style: crate::output::Style::PLAIN,
            quiet: true,
        };
        man(&args, output).unwrap_or_else(|failure| panic!("{failure}"));
        for command in Cli::command().get_subcommands() {
            let path = args.directory.join(format!("potluck-{}.1", command.get_name()));
            assert_eq!(path.exists(), !command.is_hide_set(), "{}", path.display());
        }
        let publish = std::fs::read_to_string(args.directory.join("potluck-publish.1")).unwrap();
        for part in ["potluck\\-publish", "\\-\\-version", "Examples:"] {
            assert!(publish.contains(part), "{part} in {publish}");
        }
        let main = std::fs::read_to_string(args.directory.join("potluck.1")).unwrap();
        assert!(
            main.contains("potluck\\-publish(1)") && main.contains("Exit codes"),
            "{main}"
        );
    }

    #[test]
    fn completions_know_commands_and_flags() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "potluck", &mut script);
            let script = String::from_utf8(script).unwrap();
            for part in ["join-token", "uses", "publish"] {
                assert!(script.contains(part), "{part} for {shell}");
            }
        }
    }
}
