//! Modules made of another one: a policy of one's own in a few lines.

use std::collections::BTreeSet;
use std::fmt;

use allotment_types::{AgentId, FrameworkId, Resources, Role, Timestamp};

use crate::{
    AgentReport, AgentSpec, Allocator, Amounts, ConvertError, Demand, FrameworkSpec, Grant, Hole,
    Quota, Recovery, RoleReport, Round, Share, Unavailability, UnderWay, Unoffered,
};

/// Declares [`Around`], whose methods are those of [`Allocator`] and ask the inner module, and
/// makes an allocator of whatever implements it. `tell` changes the module, `ask` does not.
macro_rules! around {
    ($($kind:ident $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)?;)*) => {
        /// A module around another one, which decides whatever this one leaves to it.
        ///
        /// Every method of [`Allocator`] is here, too, and passes the question on; a module says
        /// which one is inside and writes only those methods where it knows better. Code that
        /// uses such a module imports [`Allocator`] alone, since both traits have the methods.
        ///
        /// ```
        /// # use allotment_allocator::{Allocator, Around, Drf, FrameworkSpec};
        /// # use allotment_types::FrameworkId;
        /// /// Takes frameworks for what they are able to do, but for GPUs.
        /// #[derive(Debug, Default)]
        /// struct NoGpus(Drf);
        ///
        /// impl Around for NoGpus {
        ///     fn inner(&self) -> &dyn Allocator {
        ///         &self.0
        ///     }
        ///
        ///     fn inner_mut(&mut self) -> &mut dyn Allocator {
        ///         &mut self.0
        ///     }
        ///
        ///     fn add_framework(&mut self, framework: &FrameworkId, mut spec: FrameworkSpec) {
        ///         spec.capabilities.gpu = false;
        ///         self.0.add_framework(framework, spec);
        ///     }
        /// }
        ///
        /// let module: Box<dyn Allocator> = Box::new(NoGpus::default());
        /// ```
        pub trait Around: fmt::Debug + Send {
            /// The module inside.
            fn inner(&self) -> &dyn Allocator;

            /// The same, to be told something.
            fn inner_mut(&mut self) -> &mut dyn Allocator;

            $(around!(@passed_on $kind $name($($arg: $type),*) $(-> $out)?);)*
        }

        impl<M: Around> Allocator for M {
            $(around!(@made $kind $name($($arg: $type),*) $(-> $out)?);)*
        }
    };
    (@passed_on tell $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)?) => {
        #[doc = concat!("See [`Allocator::", stringify!($name), "`].")]
        fn $name(&mut self, $($arg: $type),*) $(-> $out)? {
            self.inner_mut().$name($($arg),*)
        }
    };
    (@passed_on ask $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)?) => {
        #[doc = concat!("See [`Allocator::", stringify!($name), "`].")]
        fn $name(&self, $($arg: $type),*) $(-> $out)? {
            self.inner().$name($($arg),*)
        }
    };
    (@made tell $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)?) => {
        fn $name(&mut self, $($arg: $type),*) $(-> $out)? {
            Around::$name(self, $($arg),*)
        }
    };
    (@made ask $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)?) => {
        fn $name(&self, $($arg: $type),*) $(-> $out)? {
            Around::$name(self, $($arg),*)
        }
    };
}

around! {
    tell add_framework(framework: &FrameworkId, spec: FrameworkSpec);
    tell deactivate_framework(framework: &FrameworkId);
    tell remove_framework(framework: &FrameworkId);
    tell add_agent(agent: &AgentId, spec: AgentSpec);
    tell set_agent_active(agent: &AgentId, active: bool);
    tell set_unavailability(agent: &AgentId, unavailability: Option<Unavailability>);
    tell answer_inverse(agent: &AgentId, framework: &FrameworkId, until: Option<Timestamp>);
    tell remove_agent(agent: &AgentId);
    tell recover(now: Timestamp, agent: &AgentId, grant: &Grant, recovery: Recovery);
    tell convert(
        agent: &AgentId,
        holder: Option<(&FrameworkId, &Role)>,
        from: &Resources,
        to: &Resources
    ) -> Result<(), ConvertError>;
    tell suppress(framework: &FrameworkId, roles: &BTreeSet<Role>);
    tell revive(framework: &FrameworkId, roles: &BTreeSet<Role>);
    tell set_demand(framework: &FrameworkId, role: &Role, demand: Option<Demand>);
    tell set_weight(role: &Role, weight_thousandths: u64);
    tell set_quota(role: &Role, quota: Quota);
    tell pause();
    tell resume();
    tell allocate(now: Timestamp) -> Round;
    ask next_deadline() -> Option<Timestamp>;
    ask explain(now: Timestamp, framework: &FrameworkId) -> Vec<Unoffered>;
    ask explain_role(role: &Role) -> Option<RoleReport>;
    ask explain_agent(now: Timestamp, agent: &AgentId) -> Option<AgentReport>;
    ask under_way() -> Option<UnderWay>;
    ask role_share(role: &Role) -> Share;
    ask framework_share(framework: &FrameworkId) -> Share;
    ask weight(role: &Role) -> u64;
    ask quota(role: &Role) -> Quota;
    ask consumed(role: &Role) -> Amounts;
    ask holes() -> Vec<Hole>;
    ask free(agent: &AgentId) -> Resources;
    ask held(agent: &AgentId) -> Vec<Grant>;
}
