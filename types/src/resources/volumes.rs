//! What stays the same while resources are reserved and volumes are made of them.

use super::{Lot, PersistentVolume, Reservation, ReservationKind, Resources};
use crate::Role;

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
        self.relotted(Lot::declared)
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

    /// The same with one more dynamic reservation upon each: for `role`, by `principal`. This is
    /// what RESERVE makes of them; upon what is reserved already it refines, and `role` must then
    /// be below.
    #[must_use]
    pub fn reserved(&self, role: &Role, principal: Option<&str>) -> Self {
        self.relotted(|lot| {
            lot.with(|info| {
                info.reservations.push(Reservation {
                    kind: ReservationKind::Dynamic,
                    role: role.clone(),
                    principal: principal.map(str::to_owned),
                    labels: Vec::new(),
                });
            })
        })
    }

    /// The same as a persistent volume, writable and for one user at a time, that tasks find
    /// under `container_path`. This is what CREATE makes of reserved disk.
    #[must_use]
    pub fn as_volume(&self, id: &str, container_path: &str, principal: Option<&str>) -> Self {
        self.relotted(|lot| {
            lot.with(|info| {
                info.disk.get_or_insert_default().volume = Some(PersistentVolume {
                    id: id.to_owned(),
                    principal: principal.map(str::to_owned),
                    container_path: container_path.to_owned(),
                    read_only: false,
                });
            })
        })
    }

    /// The same amounts in other lots.
    #[must_use]
    pub fn relotted(&self, lot_of: impl Fn(&Lot) -> Lot) -> Self {
        let mut sum = Self::EMPTY;
        for (name, lot, value) in self.iter() {
            sum.add(&Self::EMPTY.with(name.clone(), lot_of(lot), value.clone()));
        }
        sum
    }

    /// The same with each volume in the lot under which `there` has it: users may mount a volume
    /// under a path of their own, which does not make it another volume (Mesos compares volumes
    /// without `DiskInfo.volume`).
    #[must_use]
    pub fn naming_volumes_of(&self, there: &Self) -> Self {
        if self.volumes().next().is_none() {
            return self.clone();
        }
        self.relotted(|lot| {
            let known = there.volumes().map(|(known, _)| known);
            let same = known.into_iter().find(|known| is_same_volume(lot, known));
            same.unwrap_or(lot).clone()
        })
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
    use crate::{Fixed, Name};

    fn volume(path: &str) -> Resources {
        Resources::EMPTY
            .with_scalar(Name::DISK, Fixed::units(64))
            .reserved(&Role::parse("web").unwrap(), None)
            .as_volume("data", path, None)
    }

    #[test]
    fn what_was_made_at_run_time_is_made_again_on_what_the_settings_declare() {
        let kept = volume("data").plus(&"cpus:2; disk:36; mem(web):5".parse().unwrap());
        assert_eq!(
            kept.declared(),
            "cpus:2; disk:100; mem(web):5".parse().unwrap()
        );
        let grown = "cpus:4; disk:200".parse().unwrap();
        let again = kept.reapplied_to(&grown).unwrap();
        assert_eq!(
            again,
            volume("data").plus(&"cpus:4; disk:136".parse().unwrap())
        );
        let shrunk = "cpus:4; disk:10".parse().unwrap();
        assert_eq!(kept.reapplied_to(&shrunk), Err("disk:64".parse().unwrap()));
    }

    #[test]
    fn a_volume_under_another_path_is_the_same_volume() {
        let there = volume("data");
        let asked = volume("elsewhere");
        assert!(!there.contains(&asked));
        assert!(there.contains(&asked.naming_volumes_of(&there)));
    }
}
