//! `pava` (Son and Buyya 2018): bandwidth by class, in strict order, with a floor for every class that sends.

/// What the paper does not publish; ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameters {
    /// The share of the port that a class gets at least if it wants as much; at most a quarter, as there are four. Not
    /// published; ours.
    pub floor: f64,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters { floor: 0.05 }
    }
}

/// Something for each class, the first first.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ByClass<T> {
    /// Applications that are critical.
    pub critical: T,
    /// Migration of high urgency.
    pub urgent_migration: T,
    /// All other applications.
    pub normal: T,
    /// Migration of medium or low urgency.
    pub other_migration: T,
}

/// What each class gets of a port, given what it would send; infinite for a stream that takes what it gets. Bytes per second.
#[must_use]
pub fn grants(capacity: f64, demands: ByClass<f64>, parameters: &Parameters) -> ByClass<f64> {
    let ByClass { critical, urgent_migration, normal, other_migration } = demands;
    let demands = [critical, urgent_migration, normal, other_migration];
    let floors = demands.map(|demand| demand.clamp(0.0, parameters.floor * capacity.max(0.0)));
    // First everybody's floor, then the rest in order.
    let mut left = (capacity - floors.iter().sum::<f64>()).max(0.0);
    let mut grants = floors;
    for (grant, demand) in grants.iter_mut().zip(demands) {
        let more = (demand - *grant).clamp(0.0, left);
        *grant += more;
        left -= more;
    }
    let [critical, urgent_migration, normal, other_migration] = grants;
    ByClass { critical, urgent_migration, normal, other_migration }
}

#[cfg(test)]
mod tests {
    use super::super::tests::golden;
    use super::*;

    const APPLICATIONS: ByClass<f64> =
        ByClass { critical: 30.0, urgent_migration: 0.0, normal: 40.0, other_migration: 0.0 };

    fn granted(demands: ByClass<f64>) -> ByClass<f64> {
        grants(112.0, demands, &Parameters::default())
    }

    #[test]
    fn urgent_migration_leaves_others_their_floor() {
        let got = granted(ByClass { urgent_migration: f64::INFINITY, ..APPLICATIONS });
        golden(got.critical, 30.0, 0.1);
        golden(got.urgent_migration, 76.4, 0.1);
        golden(got.normal, 5.6, 0.1);
        golden(got.other_migration, 0.0, 1e-9);
    }

    #[test]
    fn other_migration_gets_what_is_left() {
        let got = granted(ByClass { other_migration: f64::INFINITY, ..APPLICATIONS });
        golden(got.other_migration, 42.0, 1.0);
        golden(got.normal, 40.0, 0.1);
        // Or its floor.
        let busy = ByClass { critical: 200.0, other_migration: f64::INFINITY, ..APPLICATIONS };
        let got = granted(busy);
        golden(got.critical, 112.0 - 2.0 * 5.6, 0.1);
        golden(got.other_migration, 5.6, 0.1);
    }

    #[test]
    fn no_demand_or_no_port() {
        assert_eq!(granted(ByClass::default()), ByClass::default());
        assert_eq!(grants(0.0, APPLICATIONS, &Parameters::default()), ByClass::default());
        // Less than the floor is all that is given.
        let little = granted(ByClass { normal: 2.0, ..ByClass::default() });
        assert_eq!(little, ByClass { normal: 2.0, ..ByClass::default() });
    }
}
