//! A changed configuration, taken over by a box at work: whole, or not at all.
//!
//! The file is read and checked, and every password and certificate that it names, before anything changes. Streams that are the
//! same are not touched. A stream in which nothing changed but what is done with faces goes on with the same connection:
//! the new rules hold from one frame to the next. Any other change of a camera starts its stream anew, and viewers who
//! stay see a slate meanwhile.

use std::path::Path;
use std::sync::Arc;

use super::config::{self, Camera, Config};
use super::site::Served;
use super::{Error, Running, Stream, listen, login_of, page, served};

/// Why a configuration is not taken over; one sentence.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// It cannot be used.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// A password cannot be used.
    #[error(transparent)]
    Password(#[from] Error),
    /// Something was changed that cannot change while the box works.
    #[error("{0} has changed, which needs a restart: systemctl restart persona")]
    Restart(&'static str),
}

/// What becomes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Nothing.
    None,
    /// What is done with faces, from one frame to the next.
    Rules,
    /// Everything.
    Anew,
}

/// How a stream goes on.
enum Next {
    /// As it is.
    Same(Box<Stream>),
    /// Anew, with the counters and viewers of the one before if there are any.
    Start(Option<Arc<Served>>),
}

impl Change {
    fn between(before: &Camera, after: &Camera) -> Self {
        if before == after {
            return Self::None;
        }
        let mut as_before = after.clone();
        as_before.zones = before.zones.clone();
        as_before.faces.policy = before.faces.policy;
        as_before.faces.min_face = before.faces.min_face;
        as_before.faces.verify = before.faces.verify;
        if as_before == *before {
            Self::Rules
        } else {
            Self::Anew
        }
    }
}

/// The first part of the configuration that may not change, if one has.
fn fixed(before: &Config, after: &Config) -> Option<&'static str> {
    [
        ("site", before.site != after.site),
        ("networks", before.networks != after.networks),
        ("rtsp.listen", before.rtsp.listen != after.rtsp.listen),
        (
            // The address of every stream would be another one.
            "whether there is an rtsp.tls",
            before.rtsp.tls.is_some() != after.rtsp.tls.is_some(),
        ),
        ("page.listen", before.page.listen != after.page.listen),
        ("report.folder", before.report.folder != after.report.folder),
    ]
    .into_iter()
    .find_map(|(name, changed)| changed.then_some(name))
}

impl Running {
    /// Takes over the configuration as it is in the file now, or leaves everything as it is. Says it as an event.
    pub(super) fn reload(&mut self, path: &Path) {
        let result = self.try_reload(path);
        self.site.reloaded(result.is_ok());
        let words = match result {
            Ok(words) => format!("configuration read anew: {words}"),
            Err(error) => format!("configuration not taken over, the one of before holds: {error}"),
        };
        self.site.events.note("box", words);
    }

    fn try_reload(&mut self, path: &Path) -> Result<String, Refused> {
        let (config, text) = Config::read_with_text(path)?;
        if let Some(part) = fixed(&self.config, &config) {
            return Err(Refused::Restart(part));
        }
        let logins = config.cameras().map(login_of).collect::<Result<Vec<_>, _>>()?;
        let page = page::Settings::read(&config.page)?;
        let viewers = listen(&config)?;

        let mut before = std::mem::take(&mut self.streams);
        let (mut words, mut after) = (Vec::new(), Vec::new());
        for (camera, login) in config.cameras().zip(logins) {
            let name = &camera.name;
            let known = before.iter().position(|stream| stream.camera.name == *name);
            let known = known.map(|index| before.remove(index));
            let change = known.as_ref().map(|stream| {
                if stream.login == login {
                    Change::between(&stream.camera, camera)
                } else {
                    Change::Anew
                }
            });
            if let Some(change @ (Change::Rules | Change::Anew)) = change {
                let how = if change == Change::Rules {
                    "new rules"
                } else {
                    "started anew"
                };
                words.push(format!("{name} {how}"));
            } else if change.is_none() {
                words.push(format!("{name} added"));
            }
            after.push((camera.clone(), login, known, change));
        }
        words.extend(
            before
                .iter()
                .map(|stream| format!("{} removed", stream.camera.name)),
        );
        // All are told to stop before any is waited for.
        let restarted = after
            .iter_mut()
            .filter(|(.., change)| *change == Some(Change::Anew))
            .filter_map(|(_, _, known, _)| known.as_mut());
        before.iter_mut().chain(restarted).for_each(Stream::stop);
        for stream in before {
            self.site.server.unmount(&stream.camera.mount());
            drop(stream);
        }
        // Every path that is given up is free before one is taken.
        let next: Vec<_> = after
            .into_iter()
            .map(|(camera, login, known, change)| {
                let next = match (known, change) {
                    (Some(stream), Some(Change::None)) => Next::Same(stream.into()),
                    (Some(mut stream), Some(Change::Rules)) => {
                        stream.set_rules(&camera);
                        Next::Same(stream.into())
                    }
                    (known, _) => {
                        Next::Start(known.and_then(|stream| stream.leave(&camera, &self.site.server)))
                    }
                };
                (camera, login, next)
            })
            .collect();
        for (camera, login, next) in next {
            let stream = match next {
                Next::Same(stream) => Ok(*stream),
                Next::Start(lasting) => {
                    let served = lasting.unwrap_or_else(|| Arc::new(served(&config, &camera, &self.site)));
                    let (panel, networks) = (&self.site.panel, &self.networks);
                    Stream::start(&config, camera.clone(), login, served, panel, networks)
                }
            };
            match stream {
                Ok(stream) => self.streams.push(stream),
                Err(error) => words.push(format!("{} cannot be started: {error}", camera.name)),
            }
        }
        let served = self.streams.iter().map(|stream| stream.served.clone());
        self.site.set_streams(served.collect(), text);
        if self.page.set(page) {
            words.push("page changed".into());
        }
        if self.site.server.set(viewers) {
            words.push("rtsp changed".into());
        }
        if self.config.report.keep != config.report.keep {
            self.site.report().set_keep(config.report.keep as usize);
            words.push(format!("reports of {} days kept", config.report.keep));
        }
        self.config = config;
        Ok(if words.is_empty() {
            "nothing has changed".into()
        } else {
            words.join(", ")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("persona.toml")).unwrap()
    }

    #[test]
    fn only_what_is_done_with_faces_changes_without_a_new_connection() {
        let camera = |more: &str| {
            let text = format!("[[camera]]\nname = \"hall\"\nsource = \"test\"\n{more}");
            config(&text).cameras().next().unwrap().clone()
        };
        let before = camera("");
        for (more, wanted) in [
            ("[camera.faces]\nlook_ahead = 2", Change::None),
            (
                "[camera.faces]\npolicy = \"head\"\nmin_face = 40\nverify = 0.5",
                Change::Rules,
            ),
            (
                "[camera.zones]\nmasked = [\"0,0 1,0 1,1\"]\ncovered = [\"0,0 1,0 1,1\"]",
                Change::Rules,
            ),
            ("[camera.faces]\nlook_ahead = 1", Change::Anew),
            ("[camera.faces]\npolicy = \"head\"\nthreshold = 0.3", Change::Anew),
            ("[camera.encoding]\nbitrate = 900", Change::Anew),
            ("mount = \"/x\"", Change::Anew),
            ("[camera.recording]\nfolder = \"x\"", Change::Anew),
        ] {
            assert_eq!(Change::between(&before, &camera(more)), wanted, "{more}");
        }
    }

    #[test]
    fn what_belongs_to_the_box_needs_a_restart() {
        let camera = "[[camera]]\nname = \"hall\"\nsource = \"test\"\n";
        let before = config(camera);
        assert_eq!(fixed(&before, &config(&format!("# a remark\n{camera}"))), None);
        let viewers = "[rtsp]\nmost_viewers = 2\n[[rtsp.user]]\nname = \"a\"\npassword_file = \"b\"\n[report]\nkeep = 2\n";
        assert_eq!(fixed(&before, &config(&format!("{viewers}{camera}"))), None);
        let page = "[page]\nhosts = [\"a.example\"]\n[page.tls]\ncertificate = \"a\"\nkey = \"b\"\n";
        assert_eq!(fixed(&before, &config(&format!("{page}{camera}"))), None);
        for (more, part) in [
            ("site = \"Town hall\"\n", "site"),
            ("[networks]\nthreads = 2\n", "networks"),
            ("[rtsp]\nlisten = \"127.0.0.1:81\"\n", "rtsp.listen"),
            (
                "[rtsp.tls]\ncertificate = \"a\"\nkey = \"b\"\n",
                "whether there is an rtsp.tls",
            ),
            ("[page]\nlisten = \"127.0.0.1:81\"\n", "page.listen"),
            ("[report]\nfolder = \"x\"\n", "report.folder"),
        ] {
            assert_eq!(fixed(&before, &config(&format!("{more}{camera}"))), Some(part));
        }
    }
}
