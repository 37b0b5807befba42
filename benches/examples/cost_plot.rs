//! Plots the cost of a change by the size of the cluster: `cargo run --release -p longshore-benches
//! --example cost_plot -- docs/cost.svg`.

use std::time::{Duration, Instant};

use longshore_benches::{Bench, Busy, Size, containers};
use plotters::prelude::*;

type Failure = Box<dyn std::error::Error>;

/// Numbers of waiting containers; there are a tenth as many instances.
const SIZES: [u32; 7] = [100, 316, 1000, 3162, 10_000, 31_623, 100_000];

/// Number of changes per sample; a sample is the mean.
const CHANGES: u32 = 50;
const SAMPLES: u32 = 60;

/// Measured times by size, in microseconds.
struct Line {
    name: &'static str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

fn main() -> Result<(), Failure> {
    let path = std::env::args().nth(1);
    let path = path.ok_or("expected the path of the SVG file to write")?;
    let mut lines = [
        ("a container ends where all is busy: the pass", BLUE),
        ("a steady probe, answered and sent again", RED),
        ("each container of a pass from scratch", RGBColor(0, 128, 0)),
    ]
    .map(|(name, colour)| Line {
        name,
        colour,
        points: Vec::new(),
    });
    println!(
        "{:>10} {:>9} {:>10} {:>10} {:>12}",
        "containers", "instances", "pass", "probe", "from scratch"
    );
    for containers in SIZES {
        let size = Size {
            instances: containers / 10,
            containers,
            shapes: 20,
            types: 400,
        };
        let costs = [
            after_one_change(size),
            steady_probe(size),
            from_scratch(size),
        ]
        .map(micros);
        let [pass, probe, scratch] = costs;
        println!(
            "{containers:>10} {:>9} {pass:>7.1} µs {probe:>7.2} µs {scratch:>9.2} µs",
            size.instances
        );
        for (line, cost) in lines.iter_mut().zip(costs) {
            line.points.push((f64::from(containers), cost));
        }
    }
    draw(&path, &lines)?;
    println!("{path} written");
    Ok(())
}

/// Minimum of many samples: interference by other processes only adds time.
fn fastest(samples: u32, sample: impl FnMut() -> Duration) -> Duration {
    let all = std::iter::repeat_with(sample).take(samples as usize);
    all.min().unwrap_or_default()
}

fn after_one_change(size: Size) -> Duration {
    let mut bench = Bench::with_instances(size);
    bench.queue_shows(containers(size));
    let busy = Busy::of(&mut bench);
    // Each change consumes a container.
    let changes = CHANGES.min(size.instances);
    let left = SAMPLES.min(size.containers / 4 / changes).max(1);
    let (mut bench, mut busy) = (bench.clone(), busy);
    fastest(left, || {
        let begin = Instant::now();
        for _ in 0..changes {
            busy.one_ends(&mut bench);
        }
        begin.elapsed() / changes
    })
}

fn steady_probe(size: Size) -> Duration {
    let mut bench = Bench::with_instances(size);
    let mut sample = |probes: u32| {
        let begin = Instant::now();
        for _ in 0..probes {
            let probe = bench.next_probe();
            bench.answer_probe(&probe, &[]);
            bench.drain_to_probe();
        }
        begin.elapsed() / probes
    };
    sample(2 * size.instances);
    fastest(4 * SAMPLES, || sample(CHANGES))
}

fn from_scratch(size: Size) -> Duration {
    let mut bench = Bench::with_instances(size);
    bench.queue_shows(containers(size));
    fastest(5, || {
        let mut bench = bench.clone();
        let begin = Instant::now();
        bench.drain_to_probe();
        begin.elapsed() / size.containers
    })
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Both axes are logarithmic, so that linear growth is a rise by one decade per decade.
fn draw(path: &str, lines: &[Line]) -> Result<(), Failure> {
    let area = SVGBackend::new(path, (860, 520)).into_drawing_area();
    area.fill(&WHITE)?;
    let (smallest, largest) = (f64::from(SIZES[0]), f64::from(SIZES[SIZES.len() - 1]));
    let mut chart = ChartBuilder::on(&area)
        .caption("What a change costs", ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d((smallest..largest).log_scale(), (0.1..1000.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("waiting containers (a tenth as many instances)")
        .y_desc("microseconds")
        .x_label_formatter(&|n| format!("{n:.0}"))
        .y_label_formatter(&|n| format!("{n}"))
        .label_style(("sans-serif", 14))
        .draw()?;
    for line in lines {
        let style = line.colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), style).point_size(4))?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    let linear = [smallest, largest].map(|n| (n, n / smallest));
    let grey = RGBColor(150, 150, 150).stroke_width(1);
    chart
        .draw_series(LineSeries::new(linear, grey))?
        .label("what would grow with the size")
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], grey));
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK)
        .label_font(("sans-serif", 14))
        .draw()?;
    area.present()?;
    Ok(())
}
