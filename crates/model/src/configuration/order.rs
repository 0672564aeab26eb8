//! The order of steps: as written, each moved behind what it needs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Orders items `0 .. needs.len()`, of which each needs others, by index. The first in the order of writing whose needs are
/// all placed comes next.
///
/// # Errors
/// A circle, each of whose items needs the next, and the last the first.
pub(super) fn order(needs: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut needed_by = vec![Vec::new(); needs.len()];
    let mut waits_for = vec![0_usize; needs.len()];
    for (item, needs) in needs.iter().enumerate() {
        for need in needs {
            needed_by[*need].push(item);
            waits_for[item] += 1;
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> = (0..needs.len())
        .filter(|item| waits_for[*item] == 0)
        .map(Reverse)
        .collect();
    let mut order = Vec::with_capacity(needs.len());
    while let Some(Reverse(item)) = ready.pop() {
        order.push(item);
        for next in &needed_by[item] {
            waits_for[*next] -= 1;
            if waits_for[*next] == 0 {
                ready.push(Reverse(*next));
            }
        }
    }
    match waits_for.iter().position(|count| *count > 0) {
        None => Ok(order),
        Some(first) => Err(circle(needs, &waits_for, first)),
    }
}

/// Follows needs that were never met until an item comes up again: what waits for ever waits for another such item.
fn circle(needs: &[Vec<usize>], waits_for: &[usize], first: usize) -> Vec<usize> {
    let mut path = vec![first];
    let mut item = first;
    loop {
        let Some(next) = needs[item].iter().copied().find(|need| waits_for[*need] > 0) else {
            return path;
        };
        if let Some(start) = path.iter().position(|seen| *seen == next) {
            return path.split_off(start);
        }
        path.push(next);
        item = next;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_step_is_moved_behind_its_needs_and_the_rest_stays() {
        assert_eq!(order(&[vec![2], vec![], vec![]]), Ok(vec![1, 2, 0]));
        assert_eq!(order(&[vec![], vec![0], vec![0]]), Ok(vec![0, 1, 2]));
        assert_eq!(order(&[]), Ok(vec![]));
    }

    #[test]
    fn a_circle_is_named_whole_and_without_what_leads_into_it() {
        assert_eq!(order(&[vec![1], vec![2], vec![1]]), Err(vec![1, 2]));
        assert_eq!(order(&[vec![0]]), Err(vec![0]));
    }

    proptest! {
        #[test]
        fn every_step_comes_once_and_after_its_needs(
            needs in prop::collection::vec(prop::collection::vec(0_usize..12, 0..3), 12)
        ) {
            match order(&needs) {
                Ok(order) => {
                    let mut sorted = order.clone();
                    sorted.sort_unstable();
                    prop_assert_eq!(sorted, (0..12).collect::<Vec<_>>());
                    let place = |item: usize| order.iter().position(|other| *other == item);
                    for (item, needs) in needs.iter().enumerate() {
                        prop_assert!(needs.iter().all(|need| place(*need) < place(item)));
                    }
                }
                Err(circle) => {
                    for (index, item) in circle.iter().enumerate() {
                        prop_assert!(needs[*item].contains(&circle[(index + 1) % circle.len()]));
                    }
                }
            }
        }
    }
}
