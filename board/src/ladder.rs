use core::fmt;

use crate::{Duration, Instant};

/// How much work the pipeline is given, from all to least. Every rung covers every face that the full work would
/// cover: only what is replaced, and how soon small newcomers are found, gets less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Rung {
    /// Every face that can be replaced is.
    #[default]
    Full,
    /// At most two faces of a frame are replaced, the others covered.
    TwoFaces,
    /// At most one face of a frame is replaced, the others covered.
    OneFace,
    /// Every face is covered.
    Cover,
    /// Every face is covered, and the close look at one tile of the frame after the other is taken half as often.
    /// The look at the whole frame, on which tracks and covers rest, stays in every frame.
    CoverSparsely,
}

impl Rung {
    /// Every rung, from all work to least.
    pub const ALL: [Self; 5] = [
        Self::Full,
        Self::TwoFaces,
        Self::OneFace,
        Self::Cover,
        Self::CoverSparsely,
    ];

    /// Most faces of a frame that may be replaced; `None` for no limit.
    pub const fn faces(self) -> Option<u32> {
        match self {
            Self::Full => None,
            Self::TwoFaces => Some(2),
            Self::OneFace => Some(1),
            Self::Cover | Self::CoverSparsely => Some(0),
        }
    }

    /// How many times longer the pause between two close looks is.
    pub const fn sweep_pause(self) -> u32 {
        match self {
            Self::CoverSparsely => 2,
            _ => 1,
        }
    }

    fn down(self) -> Self {
        Self::ALL.get(self as usize + 1).copied().unwrap_or(self)
    }

    fn up(self) -> Self {
        let above = (self as usize).checked_sub(1);
        above
            .and_then(|above| Self::ALL.get(above))
            .copied()
            .unwrap_or(self)
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Full => "full",
            Self::TwoFaces => "two faces replaced",
            Self::OneFace => "one face replaced",
            Self::Cover => "faces covered",
            Self::CoverSparsely => "faces covered, fewer close looks",
        })
    }
}

/// From where on work is shed. Temperatures in thousandths of a degree Celsius, as sysfs gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From here on work is shed.
    pub hot: i32,
    /// From here on the box gives up: [`Cause::Heat`](crate::Cause::Heat).
    pub critical: i32,
    /// Late frames per thousand from which on work is shed.
    pub late: u16,
}

impl Default for Limits {
    /// Below the 99 degrees at which Jetson modules begin to throttle (NVIDIA's thermal design guides), so that
    /// shedding comes first.
    fn default() -> Self {
        Self {
            hot: 88_000,
            critical: 98_000,
            late: 200,
        }
    }
}

/// How the box is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Hottest sensor, thousandths of a degree Celsius; `None` when no sensor answers.
    pub hottest: Option<i32>,
    /// Frames out of time since the last look, per thousand.
    pub late: u16,
    /// Whether the hardware says that it runs slower than it could.
    pub throttled: bool,
}

/// How much cooler than `hot` it must be before work is taken up again, thousandths of a degree.
const COOL: i32 = 5_000;
/// What share of `late` must not be passed before work is taken up again.
const IN_TIME: u16 = 10;
/// How long a rung must have had its effect before the next one down.
const DOWN: Duration = Duration::from_secs(2);
/// How long all must have been well before the next one up.
const UP: Duration = Duration::from_secs(15);

/// Sheds work while the box is hot or late, and takes it up again slowly.
#[derive(Debug, Clone, Copy)]
pub struct Ladder {
    limits: Limits,
    rung: Rung,
    /// When the rung last changed.
    changed: Option<Instant>,
    /// Since when all has been well.
    well: Option<Instant>,
}

impl Ladder {
    /// At the top.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            rung: Rung::Full,
            changed: None,
            well: None,
        }
    }

    /// The rung after a look at the load; at most one down every 2 s and one up every 15 s.
    pub fn next(&mut self, load: Load, now: Instant) -> Rung {
        let Limits { hot, late, .. } = self.limits;
        let over = |limit| load.hottest.is_some_and(|hottest| hottest >= limit);
        let past = |since: Option<Instant>, pause| {
            since.is_none_or(|since| now.saturating_duration_since(since) >= pause)
        };
        if over(hot) || load.late >= late || load.throttled {
            self.well = None;
            if past(self.changed, DOWN) {
                self.change(self.rung.down(), now);
            }
        } else if !over(hot - COOL) && load.late <= late / IN_TIME {
            let since = *self.well.get_or_insert(now);
            if now.saturating_duration_since(since) >= UP {
                self.well = Some(now);
                self.change(self.rung.up(), now);
            }
        } else {
            self.well = None;
        }
        self.rung
    }

    /// Whether the box must give up.
    pub fn is_critical(&self, load: Load) -> bool {
        load.hottest
            .is_some_and(|hottest| hottest >= self.limits.critical)
    }

    /// Whether it is so cool that a box that gave up may begin again.
    pub fn is_cool(&self, load: Load) -> bool {
        load.hottest
            .is_some_and(|hottest| hottest < self.limits.hot - COOL)
    }

    fn change(&mut self, rung: Rung, now: Instant) {
        if rung != self.rung {
            self.rung = rung;
            self.changed = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    const HOT: Load = Load {
        hottest: Some(90_000),
        late: 0,
        throttled: false,
    };
    const WARM: Load = Load {
        hottest: Some(85_000),
        late: 0,
        throttled: false,
    };
    const COLD: Load = Load {
        hottest: Some(50_000),
        late: 0,
        throttled: false,
    };

    /// One look each second; the rungs in the order in which they came, without repetitions.
    fn rungs(loads: impl IntoIterator<Item = Load>) -> Vec<Rung> {
        let mut ladder = Ladder::new(Limits::default());
        let mut rungs: Vec<_> = loads
            .into_iter()
            .enumerate()
            .map(|(second, load)| ladder.next(load, Instant::from_secs(second as u64)))
            .collect();
        rungs.dedup();
        rungs
    }

    #[test]
    fn heat_and_lateness_shed_rung_by_rung_and_no_further() {
        let late = Load { late: 300, ..COLD };
        let throttled = Load {
            throttled: true,
            ..COLD
        };
        for load in [HOT, late, throttled] {
            assert_eq!(rungs([load; 30]), Rung::ALL[1..], "{load:?}");
        }
    }

    #[test]
    fn work_is_taken_up_again_slowly_and_only_when_it_is_cool() {
        let cooling = [HOT; 30].into_iter().chain([WARM; 100]);
        assert_eq!(rungs(cooling).last(), Some(&Rung::CoverSparsely));
        let cooled = [HOT; 30].into_iter().chain([COLD; 61]);
        let mut wanted = Rung::ALL[1..].to_vec();
        wanted.extend([Rung::Cover, Rung::OneFace, Rung::TwoFaces, Rung::Full]);
        assert_eq!(rungs(cooled), wanted);
    }

    #[test]
    fn a_load_that_swings_does_not_make_the_picture_swing() {
        let swinging = (0..600).map(|second| if second % 10 == 0 { HOT } else { COLD });
        let rungs = rungs(swinging);
        assert!(rungs.is_sorted(), "{rungs:?}");
    }

    #[test]
    fn no_sensor_is_no_heat_and_no_recovery_from_it() {
        let ladder = Ladder::new(Limits::default());
        let blind = Load::default();
        assert!(!ladder.is_critical(blind) && !ladder.is_cool(blind));
        assert!(ladder.is_critical(Load {
            hottest: Some(98_000),
            ..COLD
        }));
        assert!(ladder.is_cool(COLD) && !ladder.is_cool(WARM));
    }

    #[test]
    fn lower_rungs_replace_no_more_and_look_no_more_often() {
        for pair in Rung::ALL.windows(2) {
            let [faces, fewer] = [pair[0], pair[1]].map(|rung| rung.faces().unwrap_or(u32::MAX));
            assert!(fewer <= faces && pair[1].sweep_pause() >= pair[0].sweep_pause());
        }
    }
}
