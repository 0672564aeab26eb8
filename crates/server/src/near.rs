//! Names that look similar, for people who mistyped.

/// The most names that are suggested.
const SUGGESTED_MAX: usize = 3;

/// Those of `known` that `text` may have been meant to be, the nearest first.
pub(crate) fn near(text: &str, known: &[String]) -> Vec<String> {
    let wanted: Vec<char> = text.to_lowercase().chars().take(100).collect();
    let mut found: Vec<(usize, &String)> = known
        .iter()
        .filter_map(|name| {
            let other: Vec<char> = name.to_lowercase().chars().take(100).collect();
            let distance = if !wanted.is_empty() && other.starts_with(&wanted) {
                1
            } else {
                distance(&wanted, &other)
            };
            (distance <= 1 + wanted.len().min(other.len()) / 5).then_some((distance, name))
        })
        .collect();
    found.sort();
    found
        .into_iter()
        .take(SUGGESTED_MAX)
        .map(|(_, name)| name.clone())
        .collect()
}

/// Levenshtein's distance.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_look_similar_are_suggested() {
        let known = ["web-edge", "web-core", "db", "Kiosk"].map(str::to_owned);
        assert_eq!(near("web-egde", &known), ["web-edge"]);
        assert_eq!(near("kiosk", &known), ["Kiosk"]);
        assert_eq!(near("web", &known), ["web-core", "web-edge"]);
        assert!(near("printer", &known).is_empty());
    }
}
