//! Whether the machine runs on mains power, as far as the kernel says.

use std::fs;
use std::path::Path;

/// Where Linux lists chargers and batteries (Documentation/ABI/testing/sysfs-class-power).
const SUPPLIES: &str = "/sys/class/power_supply";
/// The most entries that are looked at.
const SUPPLIES_MAX: usize = 64;

/// Whether the machine runs on mains power. One that says nothing of its power does.
pub(crate) fn on_mains() -> bool {
    on_mains_at(Path::new(SUPPLIES))
}

fn on_mains_at(supplies: &Path) -> bool {
    let Ok(entries) = fs::read_dir(supplies) else {
        return true;
    };
    let (mut plugged, mut unplugged, mut battery, mut discharging) = (false, false, false, false);
    for entry in entries.flatten().take(SUPPLIES_MAX) {
        let read = |file: &str| {
            let text = fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            text.trim().to_owned()
        };
        // The battery of a mouse says nothing of the machine.
        if read("scope") == "Device" {
            continue;
        }
        match read("type").as_str() {
            "Battery" | "UPS" => {
                battery = true;
                discharging |= read("status") == "Discharging";
            }
            // Sockets that are not in use are listed as well.
            "Mains" | "USB" | "Wireless" => match read("online").as_str() {
                "0" => unplugged = true,
                "" => {}
                _ => plugged = true,
            },
            _ => {}
        }
    }
    plugged || !battery || !(unplugged || discharging)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_mains(supplies: &[&[(&str, &str)]]) -> bool {
        let dir = tempfile::tempdir().unwrap();
        for (number, files) in supplies.iter().enumerate() {
            let supply = dir.path().join(number.to_string());
            fs::create_dir(&supply).unwrap();
            for (name, value) in *files {
                fs::write(supply.join(name), format!("{value}\n")).unwrap();
            }
        }
        on_mains_at(dir.path())
    }

    #[test]
    fn a_laptop_that_is_not_plugged_in_runs_on_battery() {
        let battery = |status| [("type", "Battery"), ("status", status)];
        let charger = |online| [("type", "Mains"), ("online", online)];
        assert!(!on_mains(&[&charger("0"), &battery("Discharging")]));
        assert!(!on_mains(&[&charger("0"), &battery("Full")]));
        assert!(on_mains(&[&charger("1"), &battery("Charging")]));
        assert!(
            on_mains(&[&charger("0"), &charger("1"), &battery("Not charging")]),
            "one socket of two"
        );
        assert!(!on_mains(&[&battery("Discharging")]), "no charger is listed");
    }

    #[test]
    fn a_machine_without_a_battery_of_its_own_runs_on_mains() {
        assert!(on_mains(&[]));
        let mouse = [("type", "Battery"), ("scope", "Device"), ("status", "Discharging")];
        assert!(on_mains(&[&mouse]));
        assert!(on_mains(&[&[("type", "USB"), ("online", "0")]]), "a free USB socket");
        assert!(on_mains_at(Path::new("/nonexistent")));
    }
}
