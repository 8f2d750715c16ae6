//! What stays the same while resources are reserved and volumes are made of them.

use super::{Lot, PersistentVolume, Resources};

impl Resources {
    /// The part of shared volumes, of which every user holds a copy.
    #[must_use]
    pub fn shared(&self) -> Self {
        self.filter(|_, lot| lot.is_shared())
    }

    /// The part that only one can hold at a time.
    #[must_use]
    pub fn unshared(&self) -> Self {
        self.filter(|_, lot| !lot.is_shared())
    }

    /// The persistent volumes, with the lot of each.
    pub fn volumes(&self) -> impl Iterator<Item = (&Lot, &PersistentVolume)> {
        self.iter()
            .filter_map(|(_, lot, _)| Some((lot, lot.volume()?)))
    }

    /// The same amounts as the agent's own settings declare them: reservations and volumes made
    /// at run time undone.
    #[must_use]
    pub fn declared(&self) -> Self {
        let mut sum = Self::EMPTY;
        for (name, lot, value) in self.iter() {
            sum.add(&Self::EMPTY.with(name.clone(), lot.declared(), value.clone()));
        }
        sum
    }

    /// What `declared` becomes when everything of `self` that was reserved or made a volume at run
    /// time is done again.
    ///
    /// # Errors
    /// What is lacking: the settings declare less now.
    pub fn reapplied_to(&self, declared: &Self) -> Result<Self, Self> {
        let mut total = declared.clone();
        let mut lacking = Self::EMPTY;
        for (name, lot, value) in self.iter() {
            let before = lot.declared();
            if before == *lot {
                continue;
            }
            let source = Self::EMPTY.with(name.clone(), before, value.clone());
            if total.contains(&source) {
                total.subtract(&source);
                total.add(&Self::EMPTY.with(name.clone(), lot.clone(), value.clone()));
            } else {
                lacking.add(&source);
            }
        }
        if lacking.is_empty() {
            Ok(total)
        } else {
            Err(lacking)
        }
    }

    /// The same with each volume in the lot under which `there` has it: users may mount a volume
    /// under a path of their own, which does not make it another volume (Mesos compares volumes
    /// without `DiskInfo.volume`).
    #[must_use]
    pub fn naming_volumes_of(&self, there: &Self) -> Self {
        if self.volumes().next().is_none() {
            return self.clone();
        }
        let mut sum = Self::EMPTY;
        for (name, lot, value) in self.iter() {
            let lot = there
                .volumes()
                .map(|(known, _)| known)
                .find(|known| is_same_volume(lot, known))
                .unwrap_or(lot);
            sum.add(&Self::EMPTY.with(name.clone(), lot.clone(), value.clone()));
        }
        sum
    }
}

fn is_same_volume(one: &Lot, other: &Lot) -> bool {
    let (Some(first), Some(second)) = (one.volume(), other.volume()) else {
        return false;
    };
    first.id == second.id
        && one.reservations() == other.reservations()
        && one.is_shared() == other.is_shared()
        && one.disk().map(|d| &d.source) == other.disk().map(|d| &d.source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{Disk, LotInfo, Reservation, ReservationKind, Value};
    use crate::{Fixed, Name, Role};

    fn volume(path: &str) -> Lot {
        Lot::new(LotInfo {
            reservations: vec![Reservation {
                kind: ReservationKind::Dynamic,
                role: Role::parse("web").unwrap(),
                principal: None,
                labels: Vec::new(),
            }],
            disk: Some(Disk {
                source: None,
                volume: Some(PersistentVolume {
                    id: "data".to_owned(),
                    principal: None,
                    container_path: path.to_owned(),
                    read_only: false,
                }),
            }),
            ..LotInfo::default()
        })
    }

    fn disk(lot: Lot, mib: u64) -> Resources {
        Resources::EMPTY.with(Name::DISK, lot, Value::Scalar(Fixed::units(mib)))
    }

    #[test]
    fn what_was_made_at_run_time_is_made_again_on_what_the_settings_declare() {
        let kept = disk(volume("data"), 64).plus(&"cpus:2; disk:36; mem(web):5".parse().unwrap());
        assert_eq!(
            kept.declared(),
            "cpus:2; disk:100; mem(web):5".parse().unwrap()
        );
        let grown = "cpus:4; disk:200".parse().unwrap();
        let again = kept.reapplied_to(&grown).unwrap();
        assert_eq!(
            again,
            disk(volume("data"), 64).plus(&"cpus:4; disk:136".parse().unwrap())
        );
        let shrunk = "cpus:4; disk:10".parse().unwrap();
        assert_eq!(kept.reapplied_to(&shrunk), Err("disk:64".parse().unwrap()));
    }

    #[test]
    fn a_volume_under_another_path_is_the_same_volume() {
        let there = disk(volume("data"), 64);
        let asked = disk(volume("elsewhere"), 64);
        assert!(!there.contains(&asked));
        assert!(there.contains(&asked.naming_volumes_of(&there)));
    }
}
