/* The page of `labelstore inspect --report`: what labelstore.operations.inspection.gallery gives. */
"use strict";

(() => {
  const {data, el, fill, replace, count, counted, share, decimal, missing} = page;
  const {report} = data;
  const {store, ferkd} = report;
  const names = report.class_names;

  const ACTIONS = [
    ["discarded_low", "discarded (too hard)", "var(--discarded-low)"],
    ["calibrated", "calibrated", "var(--calibrated)"],
    ["kept", "kept", "var(--kept)"],
    ["discarded_high", "discarded (too easy)", "var(--discarded-high)"],
  ];
  const LOOKS_AT = ferkd.confidence === "max" ? "largest probability" : "ground truth's probability";

  function className(number) {
    if (!names) return `class ${number}`;
    // Of names that several classes have, the number is a part already.
    return names[number].endsWith(`(${number})`) ? names[number] : `${names[number]} (${number})`;
  }
  const plusMinus = (error) => (error ? ` \u00b1 ${share(error)}` : "");
  const images = new Map(data.images.map((image) => [image.image, image]));
  const isSample = report.sample && report.sample.views < report.sample.of;

  const titles = store.path.replace(/[\\/]+$/, "").split(/[\\/]/);
  page.header(titles[titles.length - 1], !store.labelled_crops ? "No crop is labelled yet."
    : `What ${counted(store.labelled_crops, "crop")} of ${counted(store.labelled_images, "photo")} are labelled as`
    + (store.teachers.length ? `, by ${store.teachers.map((teacher) => teacher.spec).join(" and ")}.` : "."));

  alerts();
  summary();
  if (store.labelled_crops) {
    thresholds();
    boxes();
    table1();
    reliability();
    uncertainty();
    classes();
    confusion();
    gallery();
    wrongTargets();
    drift();
  }
  bytesByPart();
  fill(document.querySelector("footer"), [
    `Made by labelstore inspect from ${store.path}, id ${store.id}. `,
    "Nothing on this page is loaded from elsewhere. Charts: D3 and Observable Plot (ISC licence).",
  ]);

  function alerts() {
    const found = report.alerts || [];
    page.section("alerts", found.length ? "Look at this first" : "Nothing stands out",
      found.length
        ? el("ul", {class: "alerts"}, found.map(({kind, text}) =>
            el("li", {}, el("strong", {}, kind.replaceAll("_", " ")), text)))
        : el("p", {}, "None of what labelstore warns of was found in these labels."));
  }

  function summary() {
    const {agreement} = report;
    const tiles = [
      [count(store.labelled_crops), `crops: ${counted(store.labelled_images, "photo")}, ${counted(store.views, "view")} each`],
      agreement && [share(agreement.top1) + plusMinus(agreement.top1_error), "of crops agree with the ground truth (top-1)"],
      agreement && agreement.n > 1 && [share(agreement.top_n) + plusMinus(agreement.top_n_error), `have it among their ${agreement.n} largest classes`],
      store.labelled_crops > 0 && [decimal(report.entropy.mean), "nats of entropy in the mean label"],
      store.labelled_crops > 0 && [decimal(report.bytes.total_per_crop, 2), "bytes a crop on disk"],
    ];
    const teachers = store.teachers.map((teacher) =>
      `${teacher.spec}, weights ${teacher.checkpoint}, input ${teacher.input_size.join(" x ")}${teacher.untrained ? ", UNTRAINED" : ""}`);
    page.section("summary", "The store",
      page.figures(tiles.filter(Boolean)),
      page.facts([
        ["store", el("code", {}, store.path)],
        ["id", el("code", {}, store.id)],
        ["labels", `top ${store.k} of ${counted(store.classes, "class")}, type ${store.label_type}, temperature ${missing(store.temperature) ? "unknown" : store.temperature}, quantizer ${store.quantizer}`],
        ["teacher", teachers.length ? teachers.map((line) => el("div", {}, line)) : "unknown"],
        store.operation && ["made by", store.operation],
        ["views", law(store.law)],
        store.unreadable_images ? ["unreadable", `${counted(store.unreadable_images, "photo")}, without labels`] : null,
        store.complete ? null : ["incomplete", `${count(store.missing_blocks)} of ${counted(store.blocks, "block")} missing (${counted(store.missing_images, "photo")}): what follows is about the rest`],
        isSample && ["looked at", `${count(report.sample.views)} of ${counted(report.sample.of, "view")} of each photo; \u00b1 is half of a 95 % interval`],
        ["photos here", picturesInWords(data.pictures)],
        report.epochs && ["epochs", report.epochs.map((entry) =>
          `${counted(entry.epochs, "epoch")} without a repeated view at ${counted(entry.views_per_image, "view")} a photo`).join("; ")],
      ].filter(Boolean)));
  }

  function law(told) {
    if (told === null) return "unknown: labels can be read, crops cannot be replayed";
    if (typeof told === "string") return "boxes and flips are stored";
    const range = (bounds) => bounds.map((bound) => Number(bound.toPrecision(4))).join(" to ");
    return `by law ${told.name} ${told.version}: seed ${told.seed}, scale ${range(told.scale)}, ratio ${range(told.ratio)}, flip ${told.flip}`;
  }

  function picturesInWords(told) {
    if (!told) return "none: labelstore inspect --report with --photos SOURCE shows them";
    const lines = [`${counted(told.shown, "picture")} from ${told.source}, ${page.bytes(told.bytes)} of at most ${page.bytes(told.limit_bytes)}`];
    if (told.left_out) lines.push(`${counted(told.left_out, "picture")} left out for want of room`);
    if (told.different) lines.push(`${counted(told.different, "photo")} not shown: not the file that was labelled (its digest or size differs)`);
    if (told.missing) lines.push(`${counted(told.missing, "photo")} not shown: not in the source`);
    if (told.unreadable) lines.push(`${counted(told.unreadable, "photo")} not shown: cannot be read`);
    return lines.map((line) => el("div", {}, line));
  }

  /* Figure 2 and its thresholds. */
  function thresholds() {
    const stops = stopsOf();
    const total = stops[stops.length - 1].atMost;
    const given = ["low", "middle", "top"].map((name) => placeOf(stops, ferkd[name]));
    const at = given.slice();
    const bins = histogram(stops, total);
    const sliders = ["low", "middle", "top"].map((name, number) => slider(name, number));
    const chart = el("div", {class: "chart"});
    const bar = el("div", {class: "stack", "aria-hidden": "true"});
    const rows = el("tbody");
    const command = el("code");
    const reset = el("button", {type: "button", class: "button", on: {click: () => { given.forEach((place, number) => { at[number] = place; }); update(); }}}, "Back to the given thresholds");
    const curve = el("div", {class: "chart"});
    const examples = el("div");
    const MARGINS = {left: 44, right: 14, top: 100, bottom: 40};
    let width = 0;

    function stopsOf() {
      const {confidence, at_most: atMost} = report.thresholds;
      const found = confidence.map((value, place) => ({value, atMost: atMost[place]}));
      // The thresholds that were asked for need not be among the 201.
      let reached = 0;
      for (const [name, part] of [["low", "discarded_low"], ["middle", "calibrated"], ["top", "kept"]]) {
        reached += ferkd[part].count;
        const near = found[placeOf(found, ferkd[name])];
        if (Math.abs(near.value - ferkd[name]) > 1e-9) found.push({value: ferkd[name], atMost: reached});
        found.sort((a, b) => a.value - b.value);
      }
      return found;
    }

    function placeOf(list, value) {
      return d3.minIndex(list, (stop) => Math.abs(stop.value - value));
    }

    function histogram() {
      if (ferkd.confidence === "max") {
        return report.histogram.map(({low, high, count: crops, ratio}) => ({low, high, crops, ratio}));
      }
      return d3.range(20).map((number) => {
        const [low, high] = [number / 20, (number + 1) / 20];
        const before = number ? stops[placeOf(stops, low)].atMost : 0;
        const crops = stops[placeOf(stops, high)].atMost - before;
        return {low, high, crops, ratio: total ? crops / total : 0};
      });
    }

    /* What each part has: [count, share]. */
    function parts() {
      const bounds = [0, ...at.map((place) => stops[place].atMost), total];
      return d3.pairs(bounds).map(([low, high]) => [high - low, total ? (high - low) / total : 0]);
    }

    function text(value) { return String(Number(value.toFixed(4))); }

    function slider(name, number) {
      const pill = el("span", {class: "pill", style: {top: `${number * 26}px`}});
      const handle = el("div", {class: "threshold", role: "slider", tabindex: "0", id: `threshold-${name}`,
        "aria-label": `Threshold ${name}`, "aria-orientation": "horizontal", "aria-valuemin": "0", "aria-valuemax": "1"}, pill);
      handle.addEventListener("keydown", (event) => {
        const steps = {ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -stops.length, End: stops.length};
        if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        move(number, at[number] + steps[event.key]);
      });
      handle.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        handle.focus();
        handle.setPointerCapture(event.pointerId);
      });
      handle.addEventListener("pointermove", (event) => {
        if (!handle.hasPointerCapture(event.pointerId)) return;
        const inside = event.clientX - chart.getBoundingClientRect().left - MARGINS.left;
        const value = inside / (width - MARGINS.left - MARGINS.right);
        move(number, placeOf(stops, Math.max(0, Math.min(1, value))));
      });
      return {name, handle, pill};
    }

    function move(number, place) {
      const least = number ? at[number - 1] : 0;
      const most = number < 2 ? at[number + 1] : stops.length - 1;
      const next = Math.max(least, Math.min(most, place));
      if (next === at[number]) return;
      at[number] = next;
      update();
    }

    function pieces() {
      const bounds = [-1, ...at.map((place) => stops[place].value), 2];
      return bins.flatMap((bin) => ACTIONS.map(([, words, colour], number) => ({
        ...bin, words, colour,
        x1: Math.max(bin.low, bounds[number]), x2: Math.min(bin.high, bounds[number + 1]),
      }))).filter((piece) => piece.x2 > piece.x1);
    }

    function drawChart() {
      const svg = page.plot({
        width, height: 376, marginLeft: MARGINS.left, marginRight: MARGINS.right, marginTop: MARGINS.top, marginBottom: MARGINS.bottom,
        x: {domain: [0, 1], label: `${LOOKS_AT} of a crop`, ticks: width < 500 ? 5 : 10},
        y: {label: null, tickFormat: ".0%", grid: true, domain: [0, d3.max(bins, (bin) => bin.ratio) || 1], ticks: 5},
        marks: [
          Plot.rectY(pieces(), {x1: "x1", x2: "x2", y: "ratio", fill: {value: "colour", scale: null}, insetLeft: 0.5, insetRight: 0.5}),
          Plot.ruleY([0]),
          // Below the thresholds' names.
          Plot.text(["\u2191 share of crops"], {frameAnchor: "top-left", dx: -MARGINS.left, dy: -20}),
        ],
      });
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", `Histogram of the ${LOOKS_AT} of the crops, coloured by what FerKD does`);
      const old = chart.querySelector("svg");
      if (old) old.replaceWith(svg); else chart.prepend(svg);
    }

    function drawCurve() {
      const points = stops.map((stop) => ({x: stop.value, y: total ? stop.atMost / total : 0}));
      const marks = at.map((place, number) => ({...points[place], name: sliders[number].name}));
      const svg = page.plot({
        width, height: 240, marginLeft: MARGINS.left, marginRight: MARGINS.right, marginTop: 24, marginBottom: MARGINS.bottom,
        x: {domain: [0, 1], label: "threshold", ticks: width < 500 ? 5 : 10},
        y: {domain: [0, 1], label: "share of crops at or below it", tickFormat: ".0%", grid: true, ticks: 5},
        marks: [
          Plot.ruleX(marks, {x: "x", y: "y", stroke: "currentColor", strokeDasharray: "3,3"}),
          Plot.line(points, {x: "x", y: "y", stroke: "var(--accent)", strokeWidth: 2, curve: "linear"}),
          Plot.dot(marks, {x: "x", y: "y", r: 4, fill: "currentColor"}),
          Plot.tip(points, Plot.pointerX({x: "x", y: "y", title: (point) => `${share(point.y)} of crops have ${text(point.x)} or less`})),
          Plot.ruleY([0]),
        ],
      });
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", "Share of crops whose confidence is at most a threshold");
      curve.replaceChildren(svg);
    }

    function drawExamples() {
      replace(examples, at.map((place, number) => {
        const stop = stops[place];
        // Single precision, as stored probabilities are compared.
        const first = data.examples.findIndex((crop) => crop.confidence > Math.fround(stop.value));
        const split = first < 0 ? data.examples.length : first;
        const below = data.examples.slice(Math.max(0, split - 3), split);
        const above = data.examples.slice(split, split + 3);
        return [
          el("h3", {}, `Crops on either side of ${sliders[number].name}, ${text(stop.value)}`),
          el("div", {class: "sides"}, [[below, ACTIONS[number], "at or below it"], [above, ACTIONS[number + 1], "above it"]].map(
            ([crops, [, words, colour], where]) => el("div", {},
              el("h4", {}, el("span", {class: "swatch", style: {background: colour}}), `${where}: ${words}`),
              crops.length ? el("ul", {class: "crops"}, crops.map(example)) : el("p", {class: "quiet"}, "No crop of the sample.")))),
        ];
      }));
    }

    function example({image, key, view, confidence, class: top, picture}) {
      return el("li", {title: `${page.printable(key)}, view ${view}`},
        picture && el("img", {src: picture, alt: `view ${view} of ${key}`, decoding: "async"}),
        el("strong", {}, decimal(confidence)), names ? names[top] : `class ${top}`,
        !picture && el("div", {class: "quiet"}, images.has(image) ? photoLink(image, key) : key, `, view ${view}`));
    }

    function update() {
      if (!width) return;
      const found = parts();
      drawChart();
      drawCurve();
      sliders.forEach(({name, handle, pill}, number) => {
        const {value} = stops[at[number]];
        const [crops, ratio] = found[number];
        handle.style.left = `${MARGINS.left + value * (width - MARGINS.left - MARGINS.right)}px`;
        handle.style.height = `${376 - MARGINS.bottom}px`;
        pill.style.transform = `translateX(${-100 * value}%)`;
        pill.textContent = `${name} ${text(value)}`;
        handle.setAttribute("aria-valuenow", text(value));
        handle.setAttribute("aria-valuetext", `${text(value)}: ${counted(crops, "crop")}, ${share(ratio)}, ${ACTIONS[number][1]}`);
      });
      replace(bar, ACTIONS.map(([, , colour], number) => found[number][0] > 0
        && el("i", {style: {background: colour, flex: `${found[number][1]} 1 0`}})));
      const bounds = at.map((place) => text(stops[place].value));
      const ranges = [`0 to ${bounds[0]}`, `above ${bounds[0]}, to ${bounds[1]}`, `above ${bounds[1]}, to ${bounds[2]}`, `above ${bounds[2]}`];
      const unmoved = at.every((place, number) => place === given[number]);
      replace(rows, ACTIONS.map(([name, words, colour], number) => el("tr", {id: `part-${name}`},
        el("td", {}, el("span", {class: "tagged"}, el("span", {class: "swatch", style: {background: colour}}), el("span", {}, words))),
        el("td", {}, ranges[number]),
        el("td", {class: "number"}, count(found[number][0])),
        el("td", {class: "number"}, share(found[number][1]) + (unmoved ? plusMinus(ferkd[name].error) : "")))));
      command.textContent = `--low ${bounds[0]} --middle ${bounds[1]} --top ${bounds[2]}`;
      reset.disabled = unmoved;
      drawExamples();
    }

    const made = page.section("thresholds", "Confidence, and what FerKD would do",
      el("p", {}, "Move the thresholds: drag them, or focus one and use the arrow keys. Crops at or below low and above top are discarded, those up to middle get the smoothed ground truth, the rest keep their soft label."),
      ferkd.confidence === "target" && el("p", {class: "quiet"}, "The rule looks at the probability of the ground truth, and so does this histogram; Table 1 is of the largest probability."),
      el("figure", {}, chart, el("figcaption", {}, `${ferkd.confidence === "max" ? "The FerKD paper's Figure 2: " : ""}${counted(total, "crop")} by confidence${isSample ? ", estimated from some of the views" : ""}.`)),
      bar,
      page.scroll("What FerKD does at these thresholds", el("table", {class: "parts", "aria-label": "What FerKD does at these thresholds"},
        el("thead", {}, el("tr", {}, ["crops are", "confidence", "crops", "share"].map((words, number) =>
          el("th", {scope: "col", class: number > 1 ? "number" : null}, words)))), rows)),
      el("div", {class: "tools"}, command, reset),
      el("p", {class: "quiet"}, `At the given thresholds (low ${ferkd.low}, middle ${ferkd.middle}, top ${ferkd.top}) ${counted(ferkd.images_without_views, "photo")} would have no view left.`),
      report.fitted && ferkd.confidence === "max" && el("p", {class: "quiet", id: "fitted"},
        "Thresholds that fit this teacher, which take no more of its crops than the paper's took of the paper's teacher's: ",
        el("code", {}, `--low ${report.fitted.low} --middle ${report.fitted.middle} --top ${report.fitted.top}`),
        ` (${ACTIONS.map(([name, words]) => `${share(report.fitted.shares[name])} ${words}`).join(", ")}).`),
      el("h3", {}, "Shares against thresholds"),
      el("figure", {}, curve),
      examples);
    chart.append(...sliders.map((entry) => entry.handle));
    page.resize(chart, (now) => { width = now; update(); });
    return made;
  }

  /* Figure 1. */
  function boxes() {
    const {crops} = data;
    const made = page.section("crops", "Where the crops lie");
    if (!crops) {
      made.append(el("p", {}, "The store does not say where its crops lie, or how large its photos are: their boxes cannot be drawn."));
      return;
    }
    const points = crops.x.map((x, place) => ({
      x, y: crops.y[place], area: crops.area[place], confidence: crops.confidence[place],
    }));
    const fillOf = {value: (point) => page.confidenceColor(point.confidence), scale: null};
    const words = (point) => `confidence ${decimal(point.confidence)}\narea ${share(point.area, 1)} of the photo`;
    const centres = (width) => page.plot({
      width, height: Math.min(width, 460), marginLeft: 44,
      x: {domain: [0, 1], label: "centre of the box, from left to right", ticks: 5, tickFormat: ".0%"},
      y: {domain: [1, 0], label: "from top to bottom", ticks: 5, tickFormat: ".0%"},
      r: {domain: [0, 1], range: [0, Math.min(width, 460) / 45]},
      marks: [
        Plot.dot(points, {x: "x", y: "y", r: "area", fill: fillOf, fillOpacity: 0.7, sort: {channel: "-r"}}),
        Plot.tip(points, Plot.pointer({x: "x", y: "y", title: words})),
      ],
    });
    const against = (width) => page.plot({
      width, height: Math.min(width, 460), marginLeft: 44,
      x: {domain: [0, 1], label: "area of the crop, as a share of the photo's", ticks: 5, tickFormat: ".0%"},
      y: {domain: [0, 1], label: "confidence", ticks: 5, grid: true},
      marks: [
        Plot.dot(points, {x: "area", y: "confidence", r: 2.2, fill: fillOf, fillOpacity: 0.8}),
        Plot.lineY(points, Plot.binX({y: "median", x: "median"}, {x: "area", y: "confidence", thresholds: d3.range(0, 1.01, 0.1), stroke: "var(--ground)", strokeWidth: 5})),
        Plot.lineY(points, Plot.binX({y: "median", x: "median"}, {x: "area", y: "confidence", thresholds: d3.range(0, 1.01, 0.1), stroke: "var(--ink)", strokeWidth: 2, marker: "circle"})),
        Plot.tip(points, Plot.pointer({x: "area", y: "confidence", title: words})),
      ],
    });
    made.append(
      el("p", {}, `${counted(points.length, "crop")} ${points.length < store.labelled_crops ? `of ${count(store.labelled_crops)}, at even distances` : ", all of them"}.`.replace(" ,", ",")),
      page.confidenceLegend(),
      el("div", {class: "side"},
        page.figure(centres, {label: "Centres of the boxes, radius by area, coloured by confidence", caption: "The paper's Figure 1: centres of the boxes; the radius grows with the area, the colour tells the confidence."}),
        page.figure(against, {label: "Confidence of crops against their area", caption: "Confidence against area; the line joins the medians of tenths of the area."})));
  }

  function track(ratio, most = 1, colour = null) {
    return el("span", {class: "track", "aria-hidden": "true"}, ratio > 0 && el("i", {style: {width: `${most ? 100 * ratio / most : 0}%`, ...(colour ? {background: colour} : {})}}));
  }

  function table1() {
    const most = d3.max(report.table, (row) => row.ratio);
    page.section("table", "Table 1",
      el("p", {}, "Shares of the crops by their largest probability, as in the FerKD paper's Table 1."),
      page.table({
        label: "Shares of crops by largest probability", rows: report.table, sorts: false,
        columns: [
          {label: "range", value: (row) => `${row.low} to ${row.high}`},
          {label: "crops", numeric: true, value: (row) => row.count, cell: (row) => count(row.count)},
          {label: "share", numeric: true, value: (row) => row.ratio, cell: (row) => share(row.ratio) + plusMinus(row.error)},
          {label: "", value: (row) => row.ratio, cell: (row) => track(row.ratio, most)},
          {label: "up to it", numeric: true, value: (row) => row.aggregated_ratio, cell: (row) => share(row.aggregated_ratio)},
        ],
      }));
  }

  function reliability() {
    const made = page.section("reliability", "Can the confidence be believed?");
    if (!report.reliability) {
      made.append(el("p", {}, "The store has no ground truth to compare with."));
      return;
    }
    const points = report.reliability.bins.filter((bin) => bin.count);
    const draw = (width) => page.plot({
      width, height: Math.min(width, 420), marginLeft: 48,
      x: {domain: [0, 1], label: "mean confidence of a range", ticks: 5},
      y: {domain: [0, 1], label: "share of it that agrees with the ground truth", ticks: 5, grid: true, tickFormat: ".0%"},
      r: {domain: [0, d3.max(points, (bin) => bin.count)], range: [0, 11]},
      marks: [
        Plot.line([[0, 0], [1, 1]], {stroke: "currentColor", strokeDasharray: "4,4"}),
        Plot.link(points, {x1: "confidence", y1: "confidence", x2: "confidence", y2: "accuracy", stroke: "var(--discarded-low)", strokeWidth: 2}),
        Plot.line(points, {x: "confidence", y: "accuracy", stroke: "var(--accent)", strokeWidth: 1.5}),
        Plot.dot(points, {x: "confidence", y: "accuracy", r: (bin) => Math.max(bin.count, 0), fill: "var(--accent)", stroke: "var(--ground)"}),
        Plot.tip(points, Plot.pointer({x: "confidence", y: "accuracy", title: (bin) => `${counted(bin.count, "crop")}\nconfidence ${decimal(bin.confidence)}\n${share(bin.accuracy)} agree`})),
      ],
    });
    made.append(
      el("p", {}, "Expected calibration error: ", el("strong", {id: "calibration-error"}, decimal(report.reliability.expected_calibration_error, 4)),
        ". On the dashed line a confidence of 0.7 is right 7 times of 10; below it the teacher is too sure of itself on crops."),
      el("div", {class: "side"}, page.figure(draw, {label: "Reliability: agreement with the ground truth against confidence", caption: "Twenty ranges of the largest probability; the area of a dot grows with the number of crops."})));
  }

  function uncertainty() {
    const bins = report.entropy.histogram;
    const all = d3.sum(bins, (bin) => bin.count);
    const spread = bins.length && bins[bins.length - 1].high > bins[0].low;
    const entropy = (width) => page.plot({
      width, height: 290, marginLeft: 48, marginTop: 36,
      x: {label: "entropy of a label, nats", ticks: 5}, y: {label: "share of crops", tickFormat: "%", grid: true, ticks: 5},
      marks: [
        Plot.rectY(bins, {x1: "low", x2: "high", y: (bin) => (all ? bin.count / all : 0), fill: "var(--bar)", insetLeft: 0.5, insetRight: 0.5}),
        Plot.ruleX([report.entropy.mean], {stroke: "var(--ink)", strokeDasharray: "4,4"}),
        Plot.ruleY([0]),
      ],
    });
    const residual = (width) => page.plot({
      width, height: 290, marginLeft: 48, marginTop: 36,
      x: {label: "largest classes that are kept", type: "point", tickFormat: "d", domain: report.residual.map((row) => row.rank)},
      y: {label: "mass outside them", tickFormat: "%", grid: true, ticks: 5, domain: [0, d3.max(report.residual, (row) => row.mean) || 1]},
      marks: [
        Plot.line(report.residual, {x: "rank", y: "mean", stroke: "var(--accent)", strokeWidth: 1.5}),
        Plot.dot(report.residual, {x: "rank", y: "mean", r: 4, fill: "var(--accent)"}),
        Plot.text(report.residual.length <= 10 ? report.residual : [], {x: "rank", y: "mean", dy: -12, text: (row) => share(row.mean, 1), fill: "currentColor"}),
        Plot.ruleY([0]),
      ],
    });
    page.section("uncertainty", "Entropy and residual mass",
      el("p", {}, `The labels have ${decimal(report.entropy.mean)} nats of entropy on average${report.entropy.error ? ` \u00b1 ${decimal(report.entropy.error)}` : ""}, recovered as they are trained on.`),
      el("div", {class: "side"},
        spread ? page.figure(entropy, {label: "Histogram of the entropy of the labels", caption: "Entropy of the recovered labels; the dashed line is the mean."})
          : el("p", {class: "quiet"}, "All labels have the same entropy."),
        page.figure(residual, {label: "Mass outside the largest classes, by rank", caption: "Residual mass: what the teacher gives to classes outside the largest 1, 2, \u2026 that are stored."})));
  }

  function classes() {
    const table = report.classes;
    const all = (table.class || []).map((_, place) => Object.fromEntries(Object.entries(table).map(([name, column]) => [name, column[place]])));
    const rows = all.filter((row) => row.images || row.predicted);
    const left = store.classes - rows.length;
    const number = (label, name, words, title) => ({label, numeric: true, title, value: (row) => row[name], cell: (row) => (missing(row[name]) ? "\u2013" : words(row[name]))});
    const hasTruth = rows.some((row) => row.images);
    const ofPhotos = [
      number("photos", "images", count),
      number("confidence", "confidence", decimal, "Mean largest probability of its crops"),
      number("agreement", "agreement", (x) => share(x, 1), "Crops whose largest class is the ground truth"),
      number("drift", "drift", decimal, "Mean over its photos of the trace of the covariance of a photo's labels"),
      number("entropy", "entropy", decimal, "Mean entropy of its labels, nats"),
      number("discarded", "discarded", (x) => share(x, 1)),
      number("calibrated", "calibrated", (x) => share(x, 1)),
      number("kept", "kept", (x) => share(x, 1)),
      number("without views", "images_without_views", count, "Photos all of whose views are discarded"),
    ];
    page.section("classes", "Classes",
      el("p", {}, left ? `${counted(left, "class")} without a photo, and that no crop has as its largest, ${left === 1 ? "is" : "are"} left out. ` : "",
        hasTruth ? "Shares are of the crops of a class's own photos." : "The store has no ground truth: what is known of a class is how many crops have it as their largest."),
      page.table({
        label: "Classes", noun: "class", rows, pageRows: 20, sort: [1, true],
        search: (row) => page.printable(className(row.class)),
        columns: [
          {label: "class", value: (row) => (names ? names[row.class].toLowerCase() : row.class), cell: (row) => className(row.class)},
          ...(hasTruth ? ofPhotos : []),
          number("predicted", "predicted", count, "Crops of any photo whose largest class it is"),
        ],
      }));
  }

  function photoLink(image, key, extra) {
    return el("a", {href: `#photo-${image}`}, key, extra);
  }

  function thumb(image, key) {
    const shown = images.get(image);
    return shown && shown.picture
      ? el("a", {href: `#photo-${image}`, title: page.printable(key)}, el("img", {src: shown.picture, alt: key, decoding: "async"}))
      : photoLink(image, key);
  }

  function confusion() {
    const made = page.section("confusion", "Which class takes the mass of which");
    if (!report.confusion.length) {
      made.append(el("p", {}, "No class has mass that goes to another, or the store has no ground truth."));
      return;
    }
    made.append(
      el("p", {}, "Of the mass of the labels of a class's photos, the share that another class gets. The photos lead to where they are shown."),
      page.table({
        label: "Confusions", noun: "pair", rows: report.confusion, pageRows: 10,
        search: (row) => page.printable(`${className(row.target)} ${className(row.predicted)} ${row.images.map((image) => image.key).join(" ")}`),
        columns: [
          {label: "ground truth", value: (row) => className(row.target)},
          {label: "mass goes to", value: (row) => className(row.predicted)},
          {label: "share", numeric: true, value: (row) => row.share, cell: (row) => share(row.share, 1)},
          {label: "photos", sorts: false, value: () => 0, cell: (row) => el("span", {class: "thumbs"}, row.images.map((image) => thumb(image.image, image.key)))},
        ],
      }));
  }

  /* Image -> why the report names it. */
  function reasons() {
    const found = new Map();
    const add = (image, words) => found.set(image, [...(found.get(image) || []), words]);
    const {hardest_images: hard, easiest_images: easy, hardest_views: hardest, easiest_views: easiest} = report.extremes;
    hard.forEach((entry) => add(entry.image, `among the hardest, mean confidence ${decimal(entry.mean_confidence)}`));
    easy.forEach((entry) => add(entry.image, `among the easiest, mean confidence ${decimal(entry.mean_confidence)}`));
    hardest.forEach((entry) => add(entry.image, `has one of the hardest crops, view ${entry.view}, ${decimal(entry.confidence)}`));
    easiest.forEach((entry) => add(entry.image, `has one of the easiest crops, view ${entry.view}, ${decimal(entry.confidence)}`));
    if (report.drift) {
      report.drift.largest.forEach((entry) => add(entry.image, `its labels drift most, ${decimal(entry.drift)}`));
      report.drift.smallest.forEach((entry) => add(entry.image, `its labels drift least, ${decimal(entry.drift)}`));
    }
    if (report.wrong_targets) {
      report.wrong_targets.entries.forEach((entry) => add(entry.image, `its ground truth may be wrong: rather ${className(entry.suggested)}`));
    }
    report.confusion.forEach((pair) => pair.images.filter((entry) => entry.share >= 0.01).forEach((entry) =>
      add(entry.image, `${share(entry.share, 1)} of its mass goes to ${className(pair.predicted)}`)));
    return found;
  }

  function targetOf(image) {
    return missing(image.target) ? "ground truth unknown" : `ground truth: ${className(image.target)}`;
  }

  function gallery() {
    const why = reasons();
    const shown = data.images.filter((image) => image.views);
    const others = data.images.filter((image) => !image.views);
    const made = page.section("gallery", "Photos and their crops");
    if (!data.images.length) {
      made.append(el("p", {}, "The report names no photo."));
      return;
    }
    made.append(
      el("p", {}, "The crops of least and of most confidence of each photo, their stored labels, and what a student trains on once FerKD has calibrated them."
        + (data.pictures ? "" : " Photos are shown with --photos SOURCE.")),
      page.confidenceLegend("box and frame: confidence"),
      ...shown.map((image) => article(image, why.get(image.image) || [])));
    if (others.length) {
      made.append(el("h3", {}, "Other photos that this page names"),
        el("ul", {class: "photos"}, others.map((image) => el("li", {id: `photo-${image.image}`},
          image.picture && el("img", {src: image.picture, alt: "", decoding: "async"}),
          el("p", {class: "key"}, image.key), el("p", {}, targetOf(image)),
          el("p", {class: "quiet"}, (why.get(image.image) || []).join("; "))))));
    }
  }

  function article(image, why) {
    const half = Math.ceil(image.views.length / 2);
    const [hard, easy] = [image.views.slice(0, half), image.views.slice(half).reverse()];
    return el("article", {id: `photo-${image.image}`, "aria-labelledby": `photo-${image.image}-key`},
      el("h3", {id: `photo-${image.image}-key`, class: "key"}, image.key),
      el("p", {class: "quiet"}, [targetOf(image), ...why].join("; ")),
      el("div", {class: "look"},
        photoWithBoxes(image),
        el("div", {class: "ends"}, [["Hardest crops", hard], ["Easiest crops", easy]].map(([title, views]) =>
          views.length ? el("div", {}, el("h4", {}, title), el("ol", {class: "views"}, views.map((view) => crop(image, view)))) : null))));
  }

  function photoWithBoxes(image) {
    const boxed = image.views.filter((view) => view.box);
    if (!image.picture && !boxed.length) return el("p", {class: "quiet"}, "Its boxes are unknown.");
    const rects = boxed.flatMap(({box: [top, left, height, width], confidence, view}) =>
      ["under", null].map((kind) => el("rect", {x: left, y: top, width, height, class: kind, "data-view": view,
        style: kind ? {} : {stroke: page.confidenceColor(confidence)}})));
    const overlay = image.width && el("svg", {viewBox: `0 0 ${image.width} ${image.height}`, preserveAspectRatio: "none", role: "img",
      "aria-label": `${boxed.length} boxes`}, rects);
    return el("div", {class: "boxed"},
      image.picture ? el("img", {src: image.picture, alt: image.key, decoding: "async"})
        : el("div", {class: "blank", style: {"aspect-ratio": `${image.width} / ${image.height}`}}),
      overlay);
  }

  function crop(image, view) {
    const colour = page.confidenceColor(view.confidence);
    const calibrated = view.action === "calibrated";
    const becomes = {
      kept: "kept", calibrated: "calibrated", discarded: "discarded",
    }[view.action] || "the rule needs a ground truth";
    // What is not calibrated is trained on as it is stored, with its residual mass spread.
    const second = calibrated || store.k < 3;
    return el("li", {class: view.picture ? null : "plain"},
      view.picture && el("img", {src: view.picture, alt: `view ${view.view}`, decoding: "async", style: {"border-color": colour}}),
      el("div", {},
        el("p", {class: "said"}, !view.picture && el("span", {class: "swatch", style: {background: colour}}), `view ${view.view}, confidence ${decimal(view.confidence)}: ${becomes}`),
        el("div", {class: "labels"},
          el("div", {}, second && el("h5", {}, "stored"), labelBars(view.stored, image.target)),
          second && el("div", {}, el("h5", {}, calibrated ? "calibrated" : "with its residual mass spread"),
            view.calibrated ? [labelBars(view.calibrated, image.target), view.base > 0.00005 && el("p", {class: "quiet said"}, `every other class ${share(view.base)}`)]
              : el("p", {class: "said"}, "needs the ground truth, which is unknown")))));
  }

  function labelBars(label, target) {
    return page.bars(label.map(([number, value]) => ({name: names ? names[number] : `class ${number}`, value, truth: number === target})));
  }

  function wrongTargets() {
    const found = report.wrong_targets;
    const made = page.section("ground-truth", "Likely wrong ground truth");
    if (!found) {
      made.append(el("p", {}, "The store has no ground truth to doubt."));
      return;
    }
    made.append(
      el("p", {}, `Of ${counted(found.images, "photo")}, ${found.candidates ? count(found.candidates) : "none"} ${found.candidates === 1 ? "has" : "have"} views that agree on another class than the ground truth's, ranked as confident learning does it`
        + (found.entries.length < found.candidates ? `; the first ${count(found.entries.length)} are shown.` : ".")),
      el("ul", {class: "photos"}, found.entries.map((entry) => {
        const shown = images.get(entry.image);
        return el("li", {},
          shown && shown.picture && el("a", {href: `#photo-${entry.image}`}, el("img", {src: shown.picture, alt: entry.key, decoding: "async"})),
          el("p", {}, "ground truth: ", el("strong", {}, className(entry.target)), ` ${share(entry.target_probability, 1)}`),
          el("p", {}, "labels say: ", el("strong", {}, className(entry.suggested)), ` ${share(entry.suggested_probability, 1)}`),
          el("p", {class: "quiet"}, `largest in ${share(entry.views, 0)} of its views`),
          el("p", {class: "key"}, photoLink(entry.image, entry.key)));
      })));
  }

  function drift() {
    const told = report.drift;
    if (!told) return;
    const all = d3.sum(told.histogram, (bin) => bin.count);
    const draw = (width) => page.plot({
      width, height: 290, marginLeft: 48, marginTop: 36,
      x: {label: "drift of a photo", ticks: 5}, y: {label: "share of photos", tickFormat: "%", grid: true, ticks: 5},
      marks: [
        Plot.rectY(told.histogram, {x1: "low", x2: "high", y: (bin) => (all ? bin.count / all : 0), fill: "var(--bar)", insetLeft: 0.5, insetRight: 0.5}),
        Plot.ruleX([told.mean], {stroke: "var(--ink)", strokeDasharray: "4,4"}),
        Plot.ruleY([0]),
      ],
    });
    const row = (title, entries) => el("div", {}, el("h3", {}, title), el("ul", {class: "photos"}, entries.map((entry) => {
      const shown = images.get(entry.image);
      return el("li", {}, shown && shown.picture && el("a", {href: `#photo-${entry.image}`}, el("img", {src: shown.picture, alt: entry.key, decoding: "async"})),
        el("p", {}, el("strong", {}, decimal(entry.drift))), el("p", {class: "key"}, photoLink(entry.image, entry.key)));
    })));
    page.section("drift", "Drift of the labels between views",
      el("p", {}, `The trace of the covariance of a photo's labels over its views: 0 where all views say the same. The mean is ${decimal(told.mean)}.`),
      el("div", {class: "side"}, page.figure(draw, {label: "Histogram of the drift of the photos", caption: "Drift of the photos; the dashed line is the mean."})),
      row("The labels drift most", told.largest),
      row("The labels drift least", told.smallest));
  }

  function bytesByPart() {
    const {parts, per_crop: perCrop, total, total_per_crop: totalPerCrop} = report.bytes;
    const rows = Object.entries(parts).sort((a, b) => b[1] - a[1]);
    const most = d3.max(rows, (row) => row[1]);
    const each = (value) => (missing(value) ? "\u2013" : decimal(value));
    page.section("bytes", "Bytes on disk",
      page.table({
        label: "Bytes by part", noun: "part", pageRows: 50, rows: [...rows, ["total", total]], sorts: false,
        columns: [
          {label: "part", value: (row) => row[0]},
          {label: "bytes", numeric: true, value: (row) => row[1], cell: (row) => count(row[1])},
          {label: "a crop", numeric: true, value: (row) => row[1], cell: (row) => each(row[0] === "total" ? totalPerCrop : perCrop[row[0]])},
          {label: "", value: (row) => row[1], cell: (row) => (row[0] === "total" ? "" : track(row[1], most))},
        ],
      }));
  }
})();
