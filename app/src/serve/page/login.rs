//! Who may see the page: one operator, sessions, and a limit for those who guess.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::serve::config::Secret;

/// A session ends after this much rest, and at the latest after that much time.
const REST: Duration = Duration::from_secs(30 * 60);
const LONGEST: Duration = Duration::from_secs(12 * 3600);
/// Sessions at one time; one more ends the oldest.
const SESSIONS: usize = 16;
/// Wrong passwords from one address within [`WINDOW`] after which it is not listened to.
const GUESSES: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses whose guesses are remembered; beyond it everybody waits, the operator too.
const ADDRESSES: usize = 1024;

/// What an attempt to log in came to.
pub(super) enum Verdict {
    /// A session with this token.
    Right(String),
    /// Wrong name or password.
    Wrong,
    /// Too many guesses; not even looked at.
    Limited,
}

struct Session {
    csrf: String,
    begun: Instant,
    used: Instant,
}

/// The operator's door.
pub(super) struct Login {
    name: String,
    password: Secret,
    sessions: Mutex<HashMap<String, Session>>,
    guesses: Mutex<HashMap<IpAddr, Vec<Instant>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// 256 random bits as hexadecimal digits.
fn random() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Login {
    pub(super) fn new(name: String, password: Secret) -> Self {
        Self {
            name,
            password,
            sessions: Mutex::default(),
            guesses: Mutex::default(),
        }
    }

    /// Whether this is the door of an operator with this name and password.
    pub(super) fn is_of(&self, name: &str, password: &Secret) -> bool {
        self.name == name && self.password == *password
    }

    /// Somebody at `from` says that they are the operator.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub(super) fn attempt(
        &self,
        from: IpAddr,
        name: &str,
        password: &str,
        now: Instant,
    ) -> Result<Verdict, getrandom::Error> {
        let recent = |guess: &Instant| now.saturating_duration_since(*guess) < WINDOW;
        {
            let mut guesses = lock(&self.guesses);
            guesses.retain(|_, times| {
                times.retain(recent);
                !times.is_empty()
            });
            let known = guesses.get(&from).map_or(0, Vec::len);
            if known >= GUESSES || (known == 0 && guesses.len() >= ADDRESSES) {
                return Ok(Verdict::Limited);
            }
        }
        // Both are compared always, so that the time does not tell which one was wrong.
        let right = [self.password.is(password), name == self.name];
        if right != [true, true] {
            lock(&self.guesses).entry(from).or_default().push(now);
            return Ok(Verdict::Wrong);
        }
        lock(&self.guesses).remove(&from);
        let (token, csrf) = (random()?, random()?);
        let session = Session {
            csrf,
            begun: now,
            used: now,
        };
        let mut sessions = lock(&self.sessions);
        sessions.retain(|_, session| session.is_valid(now));
        if sessions.len() >= SESSIONS {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.used);
            if let Some(oldest) = oldest.map(|(token, _)| token.clone()) {
                sessions.remove(&oldest);
            }
        }
        sessions.insert(token.clone(), session);
        Ok(Verdict::Right(token))
    }

    /// The token against forged requests of the session, if it is one.
    pub(super) fn session(&self, token: &str, now: Instant) -> Option<String> {
        let mut sessions = lock(&self.sessions);
        let session = sessions.get_mut(token)?;
        if !session.is_valid(now) {
            sessions.remove(token);
            return None;
        }
        session.used = now;
        Some(session.csrf.clone())
    }

    /// Ends a session.
    pub(super) fn end(&self, token: &str) {
        lock(&self.sessions).remove(token);
    }
}

impl Session {
    fn is_valid(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) < REST && now.saturating_duration_since(self.begun) < LONGEST
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn door() -> Login {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "correct horse").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        Login::new("anna".into(), Secret::read(&path, 8).unwrap())
    }

    fn enter(door: &Login, now: Instant) -> String {
        match door.attempt(HOME, "anna", "correct horse", now).unwrap() {
            Verdict::Right(token) => token,
            _ => panic!("the operator is not let in"),
        }
    }

    #[test]
    fn sessions_end_after_rest_after_long_and_on_request() {
        let (door, start) = (door(), Instant::now());
        let token = enter(&door, start);
        assert_eq!(token.len(), 64);
        let csrf = door.session(&token, start).unwrap();
        assert_ne!(csrf, token);
        assert!(door.session("", start).is_none() && door.session(&csrf, start).is_none());
        let mut now = start;
        while now + REST / 2 < start + LONGEST {
            now += REST / 2;
            assert!(door.session(&token, now).is_some());
        }
        assert!(door.session(&token, start + LONGEST).is_none());
        let token = enter(&door, start);
        assert!(door.session(&token, start + REST).is_none());
        let token = enter(&door, start);
        door.end(&token);
        assert!(door.session(&token, start).is_none());
    }

    #[test]
    fn who_guesses_has_to_wait_and_nobody_else() {
        let (door, start) = (door(), Instant::now());
        for (name, password) in [
            ("anna", "x"),
            ("bert", "correct horse"),
            ("", ""),
            ("anna", ""),
            ("a", "b"),
        ] {
            let verdict = door.attempt(HOME, name, password, start).unwrap();
            assert!(matches!(verdict, Verdict::Wrong), "{name} {password}");
        }
        let right = |from, now| door.attempt(from, "anna", "correct horse", now).unwrap();
        assert!(matches!(right(HOME, start + WINDOW / 2), Verdict::Limited));
        let other = IpAddr::from([10, 0, 0, 1]);
        assert!(matches!(right(other, start + WINDOW / 2), Verdict::Right(_)));
        assert!(matches!(right(HOME, start + WINDOW), Verdict::Right(_)));
    }

    #[test]
    fn sessions_and_addresses_are_bounded() {
        let (door, start) = (door(), Instant::now());
        let first = enter(&door, start);
        for number in 1..=SESSIONS {
            enter(&door, start + Duration::from_secs(number as u64));
        }
        assert!(door.session(&first, start + Duration::from_secs(60)).is_none());
        for number in 0..ADDRESSES as u32 {
            let from = IpAddr::from(std::net::Ipv4Addr::from_bits(number));
            door.attempt(from, "anna", "x", start).unwrap();
        }
        let another = door
            .attempt(IpAddr::from([10, 0, 0, 1]), "anna", "x", start)
            .unwrap();
        assert!(matches!(another, Verdict::Limited));
    }
}
