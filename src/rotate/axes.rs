//! The axes that a product of two matrices needs most.

use faer::{Mat, Side};

/// Added to second moments, relative to their mean, so that they can be inverted.
const RIDGE: f64 = 1e-4;

/// Axes in which both factors of `x·y` are large or small together, as the columns of an orthogonal matrix, the largest first.
///
/// They are the eigenvectors of the geometric mean `A # B = A^½ (A^-½ B A^-½)^½ A^½` of the factors' second moments (Pusz &
/// Woronowicz, 1975), which weighs an axis by what it adds to the product. Where the moments commute, leaving the last ones out
/// loses the least mean square of the product that any so many axes can. `None` where moments are no finite numbers.
pub(super) fn principal(a: &Mat<f64>, b: &Mat<f64>) -> Option<Mat<f64>> {
    let (a, b) = (regular(a)?, regular(b)?);
    let (root, inverse) = (power(&a, 0.5)?, power(&a, -0.5)?);
    let mean = &root * power(&symmetric(&inverse * b * &inverse), 0.5)? * &root;
    let eigen = symmetric(mean).self_adjoint_eigen(Side::Lower).ok()?;
    let axes = eigen.U();
    let count = axes.ncols();
    Some(Mat::from_fn(count, count, |i, j| axes[(i, count - 1 - j)]))
}

/// Scaled to a mean of one on the diagonal, plus a ridge.
fn regular(a: &Mat<f64>) -> Option<Mat<f64>> {
    let count = a.nrows();
    let mean = (0..count).map(|i| a[(i, i)]).sum::<f64>() / count.max(1) as f64;
    let finite = mean > 0.0 && a.col_iter().all(|column| column.iter().all(|x| x.is_finite()));
    let ridge = |i, j| if i == j { RIDGE } else { 0.0 };
    finite.then(|| Mat::from_fn(count, count, |i, j| a[(i, j)] / mean + ridge(i, j)))
}

/// Rounding leaves products of symmetric matrices a little askew.
fn symmetric(a: Mat<f64>) -> Mat<f64> {
    Mat::from_fn(a.nrows(), a.ncols(), |i, j| (a[(i, j)] + a[(j, i)]) / 2.0)
}

/// A power of a symmetric positive matrix.
fn power(a: &Mat<f64>, exponent: f64) -> Option<Mat<f64>> {
    let eigen = a.self_adjoint_eigen(Side::Lower).ok()?;
    let (axes, values) = (eigen.U(), eigen.S().column_vector());
    let scaled = Mat::from_fn(a.nrows(), a.ncols(), |i, j| {
        axes[(i, j)] * values[j].max(f64::MIN_POSITIVE).powf(exponent)
    });
    Some(scaled * axes.transpose())
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn random(rng: &mut ChaCha8Rng, size: usize) -> Mat<f64> {
        let x = Mat::from_fn(3 * size, size, |_, _| rng.random_range(-1.0..1.0));
        x.transpose() * &x
    }

    #[test]
    fn axes_are_orthogonal_and_do_not_depend_on_which_factor_comes_first() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let (a, b) = (random(&mut rng, 6), random(&mut rng, 6));
        let (first, second) = (principal(&a, &b).unwrap(), principal(&b, &a).unwrap());
        let identity = first.transpose() * &first - Mat::<f64>::identity(6, 6);
        assert!(identity.norm_max() < 1e-12);
        for j in 0..6 {
            let dot: f64 = (0..6).map(|i| first[(i, j)] * second[(i, j)]).sum();
            assert!((dot.abs() - 1.0).abs() < 1e-8, "{j}: {dot}");
        }
    }

    #[test]
    fn where_moments_commute_axes_go_by_their_product() {
        // Along its own axes, one factor has variances 9, 1, 4 and the other 1, 4, 4: products 9, 4, 16.
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let eigen = random(&mut rng, 3).self_adjoint_eigen(Side::Lower).unwrap();
        let rotated = |d: [f64; 3]| {
            Mat::from_fn(3, 3, |i, j| (0..3).map(|k| eigen.U()[(i, k)] * d[k] * eigen.U()[(j, k)]).sum())
        };
        let axes = principal(&rotated([9.0, 1.0, 4.0]), &rotated([1.0, 4.0, 4.0])).unwrap();
        for (j, expected) in [2, 0, 1].into_iter().enumerate() {
            let dot: f64 = (0..3).map(|i| axes[(i, j)] * eigen.U()[(i, expected)]).sum();
            assert!((dot.abs() - 1.0).abs() < 1e-6, "{j}: {dot}");
        }
    }

    #[test]
    fn nothing_comes_of_nothing() {
        let (zero, one) = (Mat::zeros(2, 2), Mat::identity(2, 2));
        assert!(principal(&zero, &one).is_none());
        assert!(principal(&one, &Mat::from_fn(2, 2, |_, _| f64::NAN)).is_none());
    }
}
