//! Who gets how much of which direction of which port: weighted max-min sharing with demands and a guaranteed class.
//!
//! A *resource* is one direction of one port. A *claim* is something that sends: a flow of an application or a migration's
//! stream. Every claim's rate rises in proportion to its weight (its number of TCP connections) until it has what it
//! demands or one of the resources that it crosses is full (progressive filling; per-flow fair queues and long TCP flows
//! come close to it: 940 Mbit/s become 470 beside one stream, measured).
//!
//! A resource may guarantee a part of itself to migration, as an HTB class does: within the guarantee the classes do not
//! compete; what a class leaves is lent to the other, unless the resource is strict.

/// Something that a claim belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A migration's stream.
    Migration,
    /// Everything else.
    Application,
}

/// The most resources that one claim crosses: the sender's TX and the receiver's RX, with room for a relay's two.
pub const CROSSES_MAX: usize = 4;

/// The resources that a claim crosses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Crosses {
    resources: [u32; CROSSES_MAX],
    count: u8,
}

impl Crosses {
    /// These resources; what is beyond [`CROSSES_MAX`] or does not fit an index is left out.
    #[must_use]
    pub fn of(resources: &[usize]) -> Self {
        let mut crosses = Crosses::default();
        for resource in resources.iter().take(CROSSES_MAX) {
            if let Ok(index) = u32::try_from(*resource) {
                crosses.resources[usize::from(crosses.count)] = index;
                crosses.count += 1;
            }
        }
        crosses
    }

    /// Their indexes.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.resources[..usize::from(self.count)].iter().map(|index| *index as usize)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut u32> {
        self.resources[..usize::from(self.count)].iter_mut()
    }

    /// True if nothing is crossed: traffic that stays on its host.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Something that sends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Claim {
    /// How many TCP connections it counts as; above zero.
    pub weight: f64,
    /// What it takes at most, bytes per second; infinite for elastic traffic.
    pub demand: f64,
    /// Whom it belongs to.
    pub class: Class,
    /// What it crosses.
    pub crosses: Crosses,
}

/// One direction of one port.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resource {
    /// What it carries, bytes of payload per second.
    pub capacity: f64,
    /// The part that migration is guaranteed; zero: everything is shared by flow.
    pub migration_guarantee: f64,
    /// True: what a class leaves is not lent to the other.
    pub strict: bool,
}

impl Resource {
    /// A port that is shared by flow.
    #[must_use]
    pub const fn shared(capacity: f64) -> Self {
        Resource { capacity, migration_guarantee: 0.0, strict: false }
    }
}

/// Shares resources; keeps its scratch memory between calls, so that it allocates nothing once warm.
#[derive(Debug, Clone, Default)]
pub struct Sharer {
    /// What is left of each pool: two a resource, by class.
    left: Vec<f64>,
    /// Weights of the open claims of each pool.
    weights: Vec<f64>,
    open: Vec<Open>,
    /// Which pools are full at the current level.
    full: Vec<bool>,
}

/// Shares below this part of a pool are rounding.
const EPSILON: f64 = 1e-12;

impl Sharer {
    /// Gives each claim its rate, in `rates`, bytes per second, in the claims' order. A claim that crosses nothing gets its
    /// demand.
    pub fn share(&mut self, resources: &[Resource], claims: &[Claim], rates: &mut Vec<f64>) {
        rates.clear();
        rates.extend(claims.iter().map(
            |claim| {
                if claim.crosses.is_empty() { claim.demand } else { 0.0 }
            },
        ));
        let any_guarantee = resources.iter().any(|r| r.migration_guarantee > 0.0);
        self.left.clear();
        for resource in resources {
            let guarantee = resource.migration_guarantee.clamp(0.0, resource.capacity);
            // A resource without a guarantee has one pool for both classes.
            if guarantee > 0.0 {
                self.left.extend([guarantee, resource.capacity - guarantee]);
            } else {
                self.left.extend([resource.capacity, resource.capacity]);
            }
        }
        self.fill(resources, claims, rates, true);
        if !any_guarantee {
            return;
        }
        // Second round: what a class left of its part is lent to the other.
        for (index, resource) in resources.iter().enumerate() {
            if resource.migration_guarantee > 0.0 && !resource.strict {
                let both = self.left[2 * index] + self.left[2 * index + 1];
                self.left[2 * index] = both;
                self.left[2 * index + 1] = both;
            }
        }
        self.fill(resources, claims, rates, false);
    }

    /// Raises all claims until each has its demand or a full pool. In the first round a guaranteed resource has a pool a
    /// class, in the second only a strict one has.
    fn fill(&mut self, resources: &[Resource], claims: &[Claim], rates: &mut [f64], first: bool) {
        self.open.clear();
        self.weights.clear();
        self.weights.resize(self.left.len(), 0.0);
        let mut limited = 0;
        for (index, (claim, rate)) in claims.iter().zip(&*rates).enumerate() {
            if claim.crosses.is_empty() || claim.demand <= *rate {
                continue;
            }
            let mut pools = claim.crosses;
            for pool in pools.iter_mut() {
                let of = &resources[*pool as usize];
                let split = of.migration_guarantee > 0.0 && (first || of.strict);
                *pool = 2 * *pool + u32::from(split && claim.class == Class::Application);
                self.weights[*pool as usize] += claim.weight;
            }
            let wanted = claim.demand - *rate;
            limited += usize::from(wanted.is_finite());
            // Elastic neighbours on the same way rise together: the streams of a gang are one.
            if let Some(last) = self.open.last_mut()
                && last.end == index
                && last.pools == pools
                && last.wanted.is_infinite()
                && wanted.is_infinite()
            {
                last.weight += claim.weight;
                last.end += 1;
            } else {
                let weight = claim.weight;
                self.open.push(Open { pools, weight, wanted, first: index, end: index + 1 });
            }
        }
        while !self.open.is_empty() {
            // The level to which everybody may rise before the first pool is full.
            let mut level = f64::INFINITY;
            for (left, weight) in self.left.iter().zip(&self.weights) {
                if *weight > EPSILON {
                    level = level.min(left.max(0.0) / weight);
                }
            }
            if level.is_infinite() {
                // Only weights that rounding left: nothing more to give.
                return;
            }
            // Whoever wants no more than that gets it: levels only rise as others leave.
            let before = self.open.len();
            if limited > 0 {
                self.close(claims, rates, |open, _| {
                    (open.wanted <= open.weight * level).then_some(open.wanted)
                });
                if self.open.len() < before {
                    limited -= before - self.open.len();
                    continue;
                }
            }
            // Nobody: the pools that are full at this level close, and with them whoever crosses one.
            let limit = level * (1.0 + 1e-9) + f64::MIN_POSITIVE;
            self.full.clear();
            self.full.extend(
                self.left
                    .iter()
                    .zip(&self.weights)
                    .map(|(left, weight)| *weight > EPSILON && left.max(0.0) / weight <= limit),
            );
            self.close(claims, rates, |open, full| {
                open.pools.iter().any(|pool| full[pool]).then_some(open.weight * level)
            });
            // Some that closed were limited: counting them too high only costs a look.
            limited = limited.min(self.open.len());
            if self.open.len() == before {
                // Rounding hid the full pool: stopping gives a little less, never more.
                return;
            }
        }
    }

    /// Closes the claims to which `gets` gives something.
    fn close(
        &mut self,
        claims: &[Claim],
        rates: &mut [f64],
        gets: impl Fn(&Open, &[bool]) -> Option<f64>,
    ) {
        let mut next = 0;
        while let Some(open) = self.open.get(next) {
            let Some(got) = gets(open, &self.full) else {
                next += 1;
                continue;
            };
            let part = got / open.weight;
            for (claim, rate) in claims[open.first..open.end].iter().zip(&mut rates[open.first..]) {
                *rate += part * claim.weight;
            }
            for pool in open.pools.iter() {
                self.left[pool] -= got;
                self.weights[pool] -= open.weight;
            }
            self.open.swap_remove(next);
        }
    }
}

/// A claim that is being raised, or several that are alike.
#[derive(Debug, Clone, Copy)]
struct Open {
    /// The pools that it draws from.
    pools: Crosses,
    weight: f64,
    wanted: f64,
    /// Which claims they are.
    first: usize,
    end: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const C: f64 = 117.5;
    const SOURCE_TX: usize = 0;
    const TARGET_RX: usize = 1;

    fn migration(weight: f64, demand: f64) -> Claim {
        let crosses = Crosses::of(&[SOURCE_TX, TARGET_RX]);
        Claim { weight, demand, class: Class::Migration, crosses }
    }

    fn app(demand: f64, resource: usize) -> Claim {
        let crosses = Crosses::of(&[resource]);
        Claim { weight: 1.0, demand, class: Class::Application, crosses }
    }

    fn shared(resources: &[Resource], claims: &[Claim]) -> Vec<f64> {
        let mut rates = Vec::new();
        Sharer::default().share(resources, claims, &mut rates);
        rates
    }

    #[track_caller]
    fn check(claims: &[Claim], expected: &[f64]) {
        let rates = shared(&[Resource::shared(C), Resource::shared(C)], claims);
        for (rate, expected) in rates.iter().zip(expected) {
            assert!((rate - expected).abs() <= 0.001 * expected, "{rates:?}, not {expected:?}");
        }
    }

    const ELASTIC: f64 = f64::INFINITY;

    #[test]
    fn streams_and_flows_share_as_published() {
        let one = migration(1.0, ELASTIC);
        check(&[one, app(ELASTIC, SOURCE_TX)], &[58.75, 58.75]);
        check(&[migration(4.0, ELASTIC), app(ELASTIC, SOURCE_TX)], &[94.0, 23.5]);
        // A cap is a ceiling, not a reservation.
        check(&[migration(1.0, 80.0), app(ELASTIC, SOURCE_TX)], &[58.75, 58.75]);
        let three = [app(ELASTIC, SOURCE_TX), app(ELASTIC, SOURCE_TX), app(ELASTIC, TARGET_RX)];
        check(&[one, three[0], three[1], three[2]], &[39.167, 39.167, 39.167, 78.333]);
        let ends = [app(ELASTIC, SOURCE_TX), app(ELASTIC, TARGET_RX)];
        check(&[migration(1.0, 30.0), ends[0], ends[1]], &[30.0, 87.5, 87.5]);
        check(&[one, app(20.0, SOURCE_TX), app(ELASTIC, SOURCE_TX)], &[48.75, 20.0, 48.75]);
        check(&[one, app(30.0, SOURCE_TX), app(ELASTIC, SOURCE_TX)], &[43.75, 30.0, 43.75]);
        check(&[one, one, app(ELASTIC, SOURCE_TX)], &[39.167, 39.167, 39.167]);
    }

    #[test]
    fn a_guarantee_holds_and_what_is_left_of_it_is_lent() {
        let reserved = |strict| {
            [SOURCE_TX, TARGET_RX].map(|_| Resource {
                capacity: 100.0,
                migration_guarantee: 75.0,
                strict,
            })
        };
        let flows = [app(ELASTIC, SOURCE_TX), app(ELASTIC, SOURCE_TX)];
        let all = [migration(1.0, ELASTIC), flows[0], flows[1]];
        assert_eq!(shared(&reserved(false), &all), [75.0, 12.5, 12.5]);
        // A stream that wants less leaves the rest to the applications, and the other way round.
        let small = [migration(1.0, 30.0), flows[0], flows[1]];
        assert_eq!(shared(&reserved(false), &small), [30.0, 35.0, 35.0]);
        assert_eq!(shared(&reserved(true), &small), [30.0, 12.5, 12.5]);
        let quiet = [migration(1.0, ELASTIC), app(10.0, SOURCE_TX)];
        assert_eq!(shared(&reserved(false), &quiet), [90.0, 10.0]);
        assert_eq!(shared(&reserved(true), &quiet), [75.0, 10.0]);
    }

    #[test]
    fn what_crosses_nothing_gets_what_it_wants() {
        let local = Claim { crosses: Crosses::default(), ..app(500.0, 0) };
        assert_eq!(shared(&[Resource::shared(1.0)], &[local]), [500.0]);
    }

    fn claims() -> impl Strategy<Value = Vec<Claim>> {
        let demand = prop_oneof![Just(ELASTIC), 0.0..200.0_f64];
        let resources = prop::sample::subsequence(vec![0_usize, 1, 2, 3], 1..=3);
        let class = prop_oneof![Just(Class::Migration), Just(Class::Application)];
        let claim = (0.1..8.0_f64, demand, class, resources).prop_map(
            |(weight, demand, class, resources)| Claim {
                weight,
                demand,
                class,
                crosses: Crosses::of(&resources),
            },
        );
        prop::collection::vec(claim, 1..20)
    }

    fn resources() -> impl Strategy<Value = Vec<Resource>> {
        let one = (1.0..200.0_f64, prop_oneof![Just(0.0), 0.0..1.0_f64], any::<bool>()).prop_map(
            |(capacity, share, strict)| Resource {
                capacity,
                migration_guarantee: share * capacity,
                strict,
            },
        );
        prop::collection::vec(one, 4)
    }

    proptest! {
        #[test]
        fn nothing_is_over_capacity_nobody_over_demand_and_nothing_wanted_lies_idle(
            resources in resources(), claims in claims(),
        ) {
            let rates = shared(&resources, &claims);
            let used = |class: Option<Class>, index: usize| -> f64 {
                claims.iter().zip(&rates)
                    .filter(|(claim, _)| class.is_none_or(|class| claim.class == class))
                    .filter(|(claim, _)| claim.crosses.iter().any(|r| r == index))
                    .map(|(_, rate)| rate)
                    .sum()
            };
            for (index, resource) in resources.iter().enumerate() {
                prop_assert!(used(None, index) <= resource.capacity * (1.0 + 1e-9));
                if resource.strict && resource.migration_guarantee > 0.0 {
                    let migration = used(Some(Class::Migration), index);
                    prop_assert!(migration <= resource.migration_guarantee * (1.0 + 1e-9));
                }
            }
            for (claim, rate) in claims.iter().zip(&rates) {
                prop_assert!(*rate >= 0.0 && *rate <= claim.demand * (1.0 + 1e-9));
                if *rate < claim.demand * (1.0 - 1e-6) {
                    // Somebody is in the way: a pool that the claim crosses is full.
                    let full = claim.crosses.iter().any(|r| {
                        let resource = &resources[r];
                        let split = resource.strict && resource.migration_guarantee > 0.0;
                        let limit = match (split, claim.class) {
                            (false, _) => resource.capacity,
                            (true, Class::Migration) => resource.migration_guarantee,
                            (true, Class::Application) => {
                                resource.capacity - resource.migration_guarantee
                            }
                        };
                        let class = split.then_some(claim.class);
                        used(class, r) >= limit * (1.0 - 1e-6) - 1e-9
                    });
                    prop_assert!(full, "{claim:?} got {rate} of {rates:?}");
                }
            }
        }

        #[test]
        fn more_room_never_takes_from_a_single_resource(
            capacity in 1.0..100.0_f64, more in 1.0..3.0_f64, demands in prop::collection::vec(0.1..100.0_f64, 1..8),
        ) {
            let claims: Vec<_> = demands.iter().map(|demand| app(*demand, 0)).collect();
            let small = shared(&[Resource::shared(capacity)], &claims);
            let large = shared(&[Resource::shared(capacity * more)], &claims);
            for (small, large) in small.iter().zip(&large) {
                prop_assert!(small <= &(large * (1.0 + 1e-9)));
            }
        }
    }
}
