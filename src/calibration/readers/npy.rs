//! Single arrays of NumPy: `numpy.save`.

use std::{io::BufReader, path::Path};

use super::{Opened, Reader, Request, file_bytes, filed, has_extension, open_file};
use crate::{
    calibration::{
        CalibrationError,
        arrays::{Array, Arrays, array_error},
        npy,
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

    fn open(&self, path: &Path, request: &Request<'_>) -> Result<Opened, CalibrationError> {
        let specs = request.specs;
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
        Ok(Opened::new(Arrays::new(specs, vec![(input.name.clone(), array)])?))
    }
}
