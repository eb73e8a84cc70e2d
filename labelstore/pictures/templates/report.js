/* The page of `labelstore inspect --report`: what labelstore.operations.inspection.gallery gives. */
"use strict";

(() => {
  const {data, el, fill, replace, count, counted, share, decimal, missing} = page;
  const {report} = data;
  const {store, ferkd} = report;
  const names = report.class_names;

  function className(number) {
    if (!names) return `class ${number}`;
    // Of names that several classes have, the number is a part already.
    return names[number].endsWith(`(${number})`) ? names[number] : `${names[number]} (${number})`;
  }
  const plusMinus = (error) => (error ? ` \u00b1 ${share(error)}` : "");
  const images = new Map(data.images.map((image) => [image.image, image]));
  const isSample = report.sample && report.sample.views < report.sample.of;
  // The list goes on with photos of which nothing is suspected where there are few others.
  const suspects = (report.wrong_targets ? report.wrong_targets.entries : [])
    .filter((entry) => entry.candidate || entry.margin < 0);
  const told = {data, names, className, images, photoLink, plusMinus, isSample, suspects};

  const titles = store.path.replace(/[\\/]+$/, "").split(/[\\/]/);
  page.header(titles[titles.length - 1], !store.labelled_crops ? "No crop is labelled yet."
    : `What ${counted(store.labelled_crops, "crop")} of ${counted(store.labelled_images, "photo")} are labelled as`
    + (store.teachers.length ? `, by ${store.teachers.map((teacher) => teacher.spec).join(" and ")}.` : "."));

  alerts();
  summary();
  if (store.labelled_crops) {
    page.thresholds(told);
    boxes();
    table1();
    reliability();
    uncertainty();
    classes();
    confusion();
    page.gallery(told);
    wrongTargets();
    drift();
  }
  bytesByPart();
  fill(document.querySelector("footer"), [
    `Made by labelstore inspect from ${store.path}, id ${store.id}. `,
    "Nothing on this page is loaded from elsewhere. Charts: D3 and Observable Plot (ISC licence).",
  ]);

  function alerts() {
    // Where an alert is shown.
    const sections = {
      many_discarded: "thresholds", images_without_views: "thresholds", teacher_disagrees: "confusion",
      classes_without_photos: "classes", not_distributions: "uncertainty",
    };
    const found = report.alerts || [];
    page.section("alerts", found.length ? "Look at this first" : "Nothing stands out",
      found.length
        ? el("ul", {class: "alerts"}, found.map(({kind, text}) =>
            el("li", {}, el("strong", {}, kind.replaceAll("_", " ")), text, " ",
              sections[kind] && el("a", {href: `#${sections[kind]}`}, "Look there"))))
        : el("p", {}, "None of what labelstore warns of was found in these labels."));
  }

  function summary() {
    const {agreement} = report;
    const estimate = (value, error) => (error ? `${share(value, 1)} \u00b1 ${share(error, 1)}` : share(value));
    const tiles = [
      [count(store.labelled_crops), `crops: ${counted(store.labelled_images, "photo")}, ${counted(store.views, "view")} each`],
      agreement && [estimate(agreement.top1, agreement.top1_error), "of crops agree with the ground truth (top-1)"],
      agreement && agreement.n > 1 && [estimate(agreement.top_n, agreement.top_n_error), `have it among their ${agreement.n} largest classes`],
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
          `${entry.epochs ? counted(entry.epochs, "epoch") : "none"} without a repeated view at ${counted(entry.views_per_image, "view")} a photo`).join("; ")],
      ].filter(Boolean)));
  }

  function law(told) {
    if (told === null) return "unknown: labels can be read, crops cannot be replayed";
    if (typeof told === "string") return "boxes and flips are stored";
    const range = (bounds) => bounds.map((bound) => Number(bound.toPrecision(4))).join(" to ");
    const stages = (told.stages || []).map((stage) => stage.name).join(", ");
    return `by law ${told.name} ${told.version}: seed ${told.seed}, scale ${range(told.scale)}, ratio ${range(told.ratio)}, flip ${told.flip}${stages ? `, then ${stages}` : ""}`;
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

  function wrongTargets() {
    const found = report.wrong_targets;
    const made = page.section("ground-truth", "Likely wrong ground truth");
    if (!found) {
      made.append(el("p", {}, "The store has no ground truth to doubt."));
      return;
    }
    made.append(
      el("p", {}, `Of ${counted(found.images, "photo")}, confident learning counts ${found.candidates ? count(found.candidates) : "none"} as another class than the ground truth's. `
        + (suspects.length ? "The photos stand by how much more probability the mean label of their views gives another class; one that the teacher misjudges stands here, too."
          : "No photo's labels give another class more probability.")),
      el("ul", {class: "photos"}, suspects.map((entry) => {
        const shown = images.get(entry.image);
        return el("li", {},
          shown && shown.picture && el("a", {href: `#photo-${entry.image}`}, el("img", {src: shown.picture, alt: entry.key, decoding: "async"})),
          el("p", {}, "ground truth: ", el("strong", {}, className(entry.target)), ` ${share(entry.target_probability, 1)}`),
          el("p", {}, "may be: ", el("strong", {}, className(entry.suggested)), ` ${share(entry.suggested_probability, 1)}`),
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
