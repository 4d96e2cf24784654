//! Facts about a replica for the record of its trial: how its steps were made, and by whose
//! kernels.

use crate::device::cuda;
use crate::device::hardware::Hardware;
use crate::network::nn::has_products;
use crate::step::cuda_graph_steps::Steps;
use crate::step::replica::Replica;

impl Replica {
    /// Describes how steps were made, for the trial's record.
    pub fn execution(&self) -> String {
        self.steps
            .as_ref()
            .map_or_else(|| "queued".to_owned(), Steps::describe)
    }

    /// See `Timing::watched_step_ms`.
    pub fn watched_step_ms(&self) -> Option<(f64, f64)> {
        self.steps.as_ref().and_then(Steps::watched_step_ms)
    }

    /// Lists the operations that are not libtorch's, for the trial's record.
    pub fn kernels(&self) -> String {
        let fused_norm = self.own_operations.fused_norm
            && !self.moving_statistics.is_synchronised()
            && cuda::fused_norm_available(self.device);
        let products = self.own_operations.products
            && has_products(self.format.bf16, Hardware::of(self.device));
        let own = [(fused_norm, "fused-norm"), (products, "products")];
        let own: Vec<&str> = own
            .into_iter()
            .filter_map(|(is_used, name)| is_used.then_some(name))
            .collect();
        if own.is_empty() {
            "libtorch".to_owned()
        } else {
            own.join("+")
        }
    }
}
