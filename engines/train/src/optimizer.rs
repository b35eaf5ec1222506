//! Adam with a state that can be saved, which the optimiser of `tch` cannot.

use tch::Tensor;

/// Adam (Kingma and Ba 2015) over named variables.
#[derive(Debug)]
pub struct Adam {
    variables: Vec<(String, Tensor)>,
    mean: Vec<Tensor>,
    variance: Vec<Tensor>,
    beta_1: f64,
    beta_2: f64,
}

impl Adam {
    /// Starts with zero moments.
    pub fn new(variables: Vec<(String, Tensor)>, beta_1: f64, beta_2: f64) -> Self {
        let zeros = || {
            variables
                .iter()
                .map(|(_, variable)| variable.detach().zeros_like())
                .collect()
        };
        Self {
            mean: zeros(),
            variance: zeros(),
            variables,
            beta_1,
            beta_2,
        }
    }

    /// Moves every variable against the gradient of `loss`. `step` counts from 1 since the moments were zero.
    ///
    /// # Errors
    /// When a variable did not take part in the loss.
    pub fn descend(&mut self, loss: &Tensor, step: u64, rate: f64) -> anyhow::Result<()> {
        let variables: Vec<&Tensor> = self.variables.iter().map(|(_, variable)| variable).collect();
        let gradients = Tensor::f_run_backward(&[loss], &variables, false, false)?;
        let _guard = tch::no_grad_guard();
        let steps = i32::try_from(step).unwrap_or(i32::MAX);
        let correction_1 = 1.0 - self.beta_1.powi(steps);
        let correction_2 = 1.0 - self.beta_2.powi(steps);
        for (i, gradient) in gradients.iter().enumerate() {
            let _ = self.mean[i].lerp_(gradient, 1.0 - self.beta_1);
            let _ = self.variance[i].lerp_(&gradient.square(), 1.0 - self.beta_2);
            let scale = (&self.variance[i] / correction_2).sqrt() + 1e-8;
            let change = &self.mean[i] / scale * (-rate / correction_1);
            let mut variable = self.variables[i].1.shallow_clone();
            let _ = variable.g_add_(&change);
        }
        Ok(())
    }

    /// The moments with the names `PREFIX.mean.VARIABLE` and `PREFIX.variance.VARIABLE`.
    pub fn state(&self, prefix: &str) -> Vec<(String, Tensor)> {
        let named = |kind: &'static str, moments: &'_ [Tensor]| -> Vec<_> {
            self.variables
                .iter()
                .zip(moments)
                .map(|((name, _), moment)| (format!("{prefix}.{kind}.{name}"), moment.shallow_clone()))
                .collect()
        };
        let mut state = named("mean", &self.mean);
        state.extend(named("variance", &self.variance));
        state
    }
}
