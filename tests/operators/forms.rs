//! Every declared form of every version of every operator: typed, pruned and differentiated.
//!
//! What comes of it is in `forms.txt`, one line each; `OPTIN_BLESS=1` writes that anew. Whatever it says, a pruned model
//! computes what the masked one does and costs what was planned, backward passes agree with finite differences, and ONNX's
//! checker accepts the models before and after.

use std::{fmt::Write, fs, path::Path};

use optin_onnx::{
    calibration::Samples,
    graph::Graph,
    onnx::{self, proto::ModelProto},
    ops::{OpSchema, schemas},
    runtime::{Engine, RuntimeChoice},
    tensor::DType,
    typing::{self, Granularity},
};

use crate::{
    case::{Case, compare},
    check::Problem,
    examples::example,
    layers::{Made, between},
    python,
    support::{Subject, engine},
};

/// The oldest operator set of the models that are read.
const OLDEST: i64 = 7;

/// Checks all models of a folder.
const CHECKER: &str = r#"
import pathlib, sys, onnx
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:
        print(path.stem, str(error).strip().replace("\n", " "))
"#;

/// What ONNX Runtime has and ONNX's checker has not, or calls deprecated.
const NOT_IN_ONNX: [&str; 2] = ["GroupNormalization-18", "SimplifiedLayerNormalization-7"];

#[test]
fn every_form_of_every_version_is_typed_pruned_and_differentiated() {
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        assert!(std::env::var_os("OPTIN_REQUIRE_ORT").is_none(), "ONNX Runtime is required");
        return;
    }
    let engine = engine(RuntimeChoice::Ort);
    let models = tempfile::tempdir().unwrap();
    let (mut lines, mut wrong) = (String::new(), Vec::new());
    let mut operators: Vec<&OpSchema> = schemas().map(|(_, schema)| schema).collect();
    operators.sort_by_key(|schema| (schema.domain, schema.name));
    for schema in operators {
        for (version, form) in schema.variants(OLDEST) {
            // ONNX Runtime's own operators have one version.
            let operator = match schema.domain {
                "" => format!("{}-{version}", schema.name),
                domain => format!("{domain}.{}", schema.name),
            };
            let name = match form.name {
                "" => operator,
                form => format!("{operator}, {form}"),
            };
            let Some(case) = example(schema, version, form.name) else {
                wrong.push(format!("{name}: there is no example"));
                continue;
            };
            let path = models.path().join(name.replace([' ', ','], "_"));
            match run(&*engine, schema, case, &path) {
                Ok(found) => writeln!(lines, "{name}: {found}").unwrap(),
                Err(problem) => wrong.push(format!("{name}: {problem}")),
            }
        }
    }
    wrong.extend(
        python(CHECKER, &[models.path().to_str().unwrap()]).unwrap_or_default().lines().map(str::to_owned),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/operators/forms.txt");
    if std::env::var_os("OPTIN_BLESS").is_some() {
        fs::write(path, lines).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap();
    let changed = lines.lines().filter(|line| !expected.lines().any(|e| e == *line));
    let changed: Vec<&str> = changed.collect();
    assert!(lines == expected, "OPTIN_BLESS=1 takes what was found:\n{}", changed.join("\n"));
}

/// What comes of an example, in a line. Its models are left under names that begin with `path`.
fn run(engine: &dyn Engine, schema: &OpSchema, mut case: Case, path: &Path) -> Result<String, String> {
    let made = match results(engine, &mut case) {
        Ok(made) => made,
        Err(refused) => return Ok(format!("not run: {refused}")),
    };
    let pruned = prune(engine, &case, &made, path)?;
    let wanted = case.wanted(&case.model(DType::F32));
    let backward = match wanted.is_empty() || !made.iter().any(|made| made.dtype.is_float()) {
        true => "nothing to differentiate".to_owned(),
        false => differentiate(engine, schema, &mut case)?,
    };
    Ok(format!("{pruned}; {backward}"))
}

/// The types and extents of the node's results.
fn results(engine: &dyn Engine, case: &mut Case) -> Result<Vec<Made>, String> {
    let model = case.model(DType::F32);
    let mut observe = |batch| {
        let graph = Graph::new(&model);
        let facts = typing::observe(engine, &model, &graph, &case.feed(DType::F32, batch), batch);
        let facts = facts.map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())?;
        Ok::<_, String>(graph.outputs().iter().map(|v| facts.get(*v).unwrap().clone()).collect::<Vec<_>>())
    };
    let (two, three) = (observe(2)?, observe(3)?);
    let made = two.iter().zip(&three).map(|(two, three)| {
        let same = |(a, b): (&usize, &usize)| (a == b).then_some(*a);
        Made { dtype: two.dtype, shape: two.shape.iter().zip(&three.shape).map(same).collect() }
    });
    Ok(made.collect())
}

/// Prunes all that can be pruned, in two ways, and says what that is.
fn prune(engine: &dyn Engine, case: &Case, made: &[Made], path: &Path) -> Result<String, String> {
    let (model, feed) = between(case, made);
    let save = |model: &ModelProto, what: &str| {
        fs::write(path.with_added_extension(format!("{what}.onnx")), onnx::encode(model)).unwrap();
    };
    let known = !NOT_IN_ONNX.contains(&path.file_name().unwrap().to_str().unwrap());
    let save = |model: &ModelProto, what: &str| {
        if known {
            save(model, what)
        }
    };
    save(&model, "dense");
    let mut checked = model.clone();
    onnx::validate(&mut checked).map_err(|e| e.to_string())?;
    let samples = Samples::new(&checked, feed).map_err(|e| e.to_string())?;
    let subject = Subject::typed(engine, checked, samples, Granularity::Head)?;
    subject.check_identity()?;
    let prunable = &subject.dimensions.prunable;
    for what in ["one", "rest"] {
        let units: Vec<Vec<usize>> = prunable
            .iter()
            .map(|d| if what == "one" { 0..d.least } else { usize::from(d.size > d.least)..d.size })
            .map(Iterator::collect)
            .collect();
        let kept = subject.kept(&units);
        let mut pruned = subject.prune(&kept)?;
        onnx::validate(&mut pruned).map_err(|e| format!("keeping {what}: {e}"))?;
        subject.check_pruned(engine, &kept, &pruned).map_err(|e| format!("keeping {what}: {e}"))?;
        save(&pruned, what);
    }
    // Layers around the node are made of their own weights: what is theirs alone is none of the node's business.
    let mut sizes: Vec<String> = prunable.iter().map(|d| format!("{} {}", d.size, d.kind)).collect();
    sizes.sort();
    Ok(if sizes.is_empty() { "nothing can go".to_owned() } else { format!("{} can go", sizes.join(", ")) })
}

/// Compares the backward pass with finite differences; says where it stops.
fn differentiate(engine: &dyn Engine, schema: &OpSchema, case: &mut Case) -> Result<String, String> {
    match compare(engine, case) {
        Ok((difference, tolerance)) if difference > tolerance => {
            Err(format!("the gradient is off by {difference:e}"))
        }
        Ok(_) if schema.has_gradient => Ok("differentiated".to_owned()),
        Ok(_) => Err("there is a gradient, which the declaration denies".to_owned()),
        Err(Problem::Stop(stop)) => {
            let bare = format!("{} has no gradient rule", schema.name);
            let says = stop.split_once(": ").map_or(stop.as_str(), |(_, reason)| reason);
            match (says == bare, schema.has_gradient) {
                (true, true) => {
                    Err("there is no gradient rule, which the declaration says there is".to_owned())
                }
                _ => Ok(says.to_owned()),
            }
        }
        Err(problem) => Err(problem.to_string()),
    }
}
