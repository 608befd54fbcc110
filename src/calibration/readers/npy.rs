//! Single arrays of NumPy: `numpy.save`.

use std::{io::BufReader, path::Path, sync::Arc};

use super::{Opened, Reader, file_bytes, filed, has_extension, open_file};
use crate::{
    calibration::{
        CalibrationError,
        arrays::{Array, Arrays, array_error},
        npy,
        spec::InputSpecs,
    },
    limits,
};

/// One array, for the only input of the model, which stays in the file.
pub(super) struct Npy;

impl Reader for Npy {
    fn id(&self) -> &'static str {
        "npy"
    }

    fn about(&self) -> &'static str {
        "a .npy file for a model with one input"
    }

    fn accepts(&self, path: &Path) -> bool {
        has_extension(path, "npy")
    }

    fn open(&self, path: &Path, specs: &InputSpecs) -> Result<Opened, CalibrationError> {
        let [input] = specs.inputs.as_slice() else {
            return Err(CalibrationError::Unnamed { path: path.into(), inputs: specs.names() });
        };
        let array = match filed(path, &input.name, 0, file_bytes(path))? {
            Some(array) => array,
            None => {
                let most = limits::array_bytes(file_bytes(path));
                let tensor = npy::read(BufReader::new(open_file(path)?), most);
                Array::Held(tensor.map_err(|source| array_error(path, &input.name, source))?)
            }
        };
        let arrays = Arrays::new(specs, vec![(input.name.clone(), array)])?;
        Ok(Opened { source: Arc::new(arrays), notes: Vec::new() })
    }
}
