//! What every place must do, as one suite over any [`place::Place`].
//!
//! `suite!(name, Type)` makes a test module of every check; docs/adding-a-kernel.md says how to add a place.

mod checks;
mod picture;
mod place;

/// All checks for one place.
macro_rules! suite {
    ($name:ident, $place:ty $(, $needs:literal)?) => {
        mod $name {
            suite!(@checks $place, [$($needs)?]
                tensors_keep_their_entries
                tensors_are_fetched_together
                judge_fills_the_holes_of_a_mask
                ramps_stay_ramps
                warp_follows_rotation_and_scale
                warp_repeats_the_edge
                warp_averages_what_it_shrinks
                resize_averages_exactly
                resize_keeps_a_flat_frame
                resize_is_black_outside
                warp_and_blend_give_the_frame_back
                blend_mixes_by_the_mask
                blend_changes_nothing_outside_of_the_hull
                blend_of_many_is_one_after_another
                blend_makes_what_is_not_finite_grey
                blend_refuses_what_it_cannot_place
                cover_depends_on_nothing_inside
                cover_has_no_detail
                cover_of_a_small_face_has_one_color
                cover_without_surroundings_is_grey
                cover_of_what_has_no_place_covers_the_frame
                tiny_frames_work
                transforms_far_away_work
                checksum_tells_pictures_apart
                shapes_are_checked
                agrees_with_the_cpu
            );
        }
    };
    (@checks $place:ty, [] $($check:ident)*) => {
        $(#[test]
        fn $check() {
            crate::checks::$check::<$place>();
        })*
    };
    (@checks $place:ty, [$needs:literal] $($check:ident)*) => {
        $(#[test]
        #[ignore = $needs]
        fn $check() {
            crate::checks::$check::<$place>();
        })*
    };
}

suite!(cpu, kernels::cpu::Cpu);

#[cfg(feature = "cuda")]
suite!(
    cuda,
    kernels::cuda::Cuda,
    "needs a CUDA driver, or the one that `cargo xtask kernels` makes"
);

/// Random frames with 0 to 64 faces, in both formats and precisions: some thousands, or those with the numbers from
/// `PERSONA_FIRST_CASE` on, below `PERSONA_CASES`.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a CUDA driver, or the one that `cargo xtask kernels` makes"]
fn cuda_agrees_on_random_frames() {
    use kernels::cuda::{Cuda, Device, agreement};

    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let cases: u64 = number("PERSONA_CASES", 2000);
    let start: u64 = number("PERSONA_FIRST_CASE", 0);
    let device = Device::open(0).expect("a CUDA driver");
    let mut cuda = Cuda::new(&device).expect("memory for small things");
    let mut agreement = agreement::Agreement::default();
    // A million take an hour or more: whoever looks sees how far it is.
    for first in (start..cases).step_by(10_000) {
        let end = cases.min(first + 10_000);
        agreement += agreement::compare(&mut cuda, first..end).unwrap();
        println!("{start} to {end}: {agreement:?}");
    }
    assert_eq!(agreement.cases, cases - start);
    assert!(agreement.faces > agreement.cases);
    // `compare` allows 1 code value. The same operations in the same order give the same byte, except where the CPU left
    // out an edge that is nearly 1 feather away: more than one byte in a million is something else.
    assert!(
        agreement.different * 1_000_000 <= agreement.bytes,
        "{agreement:?}"
    );
}
