/* Of the page `report`: Figure 2 with FerKD's thresholds, which move, and crops on either side. */
"use strict";

page.thresholds = ({data, names, images, photoLink, plusMinus, isSample}) => {
  const {el, replace, count, counted, share, decimal} = page;
  const {report} = data;
  const {ferkd} = report;

  // What becomes of crops, by rising confidence.
  const ACTIONS = [
    ["discarded_low", "discarded (too hard)", "var(--discarded-low)"],
    ["calibrated", "calibrated", "var(--calibrated)"],
    ["kept", "kept", "var(--kept)"],
    ["discarded_high", "discarded (too easy)", "var(--discarded-high)"],
  ];
  const LOOKS_AT = ferkd.confidence === "max" ? "largest probability" : "ground truth's probability";
  const HEIGHT = 376;

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
    // Thresholds by class take other crops than one set of them does.
    if (ferkd.by_class !== null) return found;
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
      width, height: HEIGHT, marginLeft: MARGINS.left, marginRight: MARGINS.right, marginTop: MARGINS.top, marginBottom: MARGINS.bottom,
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

  /* The place of the first example above a threshold; they stand by confidence. */
  function firstAbove(value) {
    // Single precision, as stored probabilities are compared.
    const first = data.examples.findIndex((crop) => crop.confidence > Math.fround(value));
    return first < 0 ? data.examples.length : first;
  }

  function drawExamples() {
    replace(examples, at.map((place, number) => {
      const stop = stops[place];
      // Of crops at or below it those above the threshold before, of the others those up to the next.
      const split = firstAbove(stop.value);
      const least = number ? firstAbove(stops[at[number - 1]].value) : 0;
      const most = number < 2 ? firstAbove(stops[at[number + 1]].value) : data.examples.length;
      const below = data.examples.slice(Math.max(least, split - 3), split);
      const above = data.examples.slice(split, Math.min(most, split + 3));
      return [
        el("h3", {}, `Crops on either side of ${sliders[number].name}, ${text(stop.value)}`),
        el("div", {class: "sides"}, [[below, ACTIONS[number], "at or below it"], [above, ACTIONS[number + 1], "above it"]].map(
          ([crops, [, words, colour], where]) => el("div", {},
            el("h4", {}, el("span", {class: "swatch", style: {background: colour}}), `${where}: ${words}`),
            crops.length ? el("ul", {class: data.pictures ? "crops" : "crops plain"}, crops.map(example)) : el("p", {class: "quiet"}, "No crop of the sample.")))),
      ];
    }));
  }

  function example({image, key, view, confidence, class: top, picture}) {
    const words = names ? names[top] : `class ${top}`;
    if (!data.pictures) {
      return el("li", {}, el("strong", {}, decimal(confidence)), el("span", {}, words, ": ",
        images.has(image) ? photoLink(image, key) : key, `, view ${view}`));
    }
    return el("li", {title: `${page.printable(key)}, view ${view}`},
      picture && el("img", {src: picture, alt: `view ${view} of ${key}`, decoding: "async"}),
      el("strong", {}, decimal(confidence)), words);
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
      handle.style.height = `${HEIGHT - MARGINS.bottom}px`;
      pill.style.transform = `translateX(${-100 * value}%)`;
      pill.textContent = `${name} ${text(value)}`;
      handle.setAttribute("aria-valuenow", text(value));
      handle.setAttribute("aria-valuetext", `${text(value)}: ${counted(crops, "crop")}, ${share(ratio)}, ${ACTIONS[number][1]}`);
    });
    replace(bar, ACTIONS.map(([, , colour], number) => found[number][0] > 0
      && el("i", {style: {background: colour, flex: `${found[number][1]} 1 0`}})));
    const bounds = at.map((place) => text(stops[place].value));
    const ranges = [`0 to ${bounds[0]}`, `above ${bounds[0]}, to ${bounds[1]}`, `above ${bounds[1]}, to ${bounds[2]}`, `above ${bounds[2]}`];
    const unmoved = ferkd.by_class === null && at.every((place, number) => place === given[number]);
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
    ferkd.by_class !== null && el("p", {class: "quiet", id: "by-class"},
      `The rule was given with thresholds of their own for ${ferkd.by_class.classes.length} of ${ferkd.by_class.num_classes} classes, and low, middle and top for the others. What is drawn here is one set for all; by class the rule has `,
      ACTIONS.map(([name, words]) => `${share(ferkd[name].share)} ${words}`).join(", "), "."),
    el("p", {class: "quiet"}, `At the given thresholds (${ferkd.by_class === null ? "" : "by class, else "}low ${ferkd.low}, middle ${ferkd.middle}, top ${ferkd.top}) ${counted(ferkd.images_without_views, "photo")} would have no view left.`),
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
};
