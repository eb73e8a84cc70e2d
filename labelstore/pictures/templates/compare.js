/* The page of `labelstore compare --report`: what comparison.page_data gives. */
"use strict";

(() => {
  const {data, el, fill, count, counted, share, decimal, missing} = page;
  const {comparison: told} = data;
  const names = told.class_names;
  const byViews = told.by === "views";
  const noun = byViews ? "crop" : "photo";
  const SIDES = ["a", "b"];

  const DECISIONS = [
    ["discarded_low", "discarded (too hard)"],
    ["calibrated", "calibrated"],
    ["kept", "kept"],
    ["discarded_high", "discarded (too easy)"],
  ];

  const className = (number) => (names ? `${names[number]} (${number})` : `class ${number}`);
  const shortName = (number) => (names ? names[number] : `class ${number}`);
  const plusMinus = (error, write = share) => (error ? ` \u00b1 ${write(error)}` : "");
  const shareOf = ({mean, error}) => share(mean) + plusMinus(error);
  const numberOf = ({mean, error}, digits = 3) =>
    decimal(mean, digits) + plusMinus(error, (value) => decimal(value, digits));
  const lastPart = (path) => path.replace(/\/+$/, "").split("/").pop();
  const fileOf = (store) => store.members.map((member) => lastPart(member.path)).join(" + ");
  const isSample = byViews && told.views.looked_at_a < told.views.compared;

  page.header(`${fileOf(told.a)} and ${fileOf(told.b)}`,
    `Two labels of each of ${counted(told.crops, noun)}: A is ${fileOf(told.a)}, B is ${fileOf(told.b)}.`);

  alerts();
  summary();
  confidence();
  distances();
  truth();
  views();
  photos();
  classes();
  pairs();
  decisions();
  fill(document.querySelector("footer"), [
    `Made by labelstore compare from ${told.a.path} (id ${told.a.id}) and ${told.b.path} (id ${told.b.id}). `,
    "Nothing on this page is loaded from elsewhere. Charts: D3 and Observable Plot (ISC licence).",
  ]);

  function alerts() {
    const found = told.alerts.map(({kind, text}) => [kind.replaceAll("_", " "), text]);
    if (told.reason !== null) found.unshift(["not view by view", told.reason]);
    page.section("alerts", found.length ? "Look at this first" : "Nothing stands in the way",
      found.length
        ? el("ul", {class: "alerts"}, found.map(([kind, text]) => el("li", {}, el("strong", {}, kind), text)))
        : el("p", {}, "None of what labelstore warns of makes these labels unfit to be compared, view by view."));
  }

  function summary() {
    const {agreement, images} = told;
    const tiles = [
      [shareOf(agreement.top1), `of ${noun}s have the same largest class`],
      agreement.n > 1 && [shareOf(agreement.top_n), `of the ${agreement.n} largest classes are the same`],
      [numberOf(told.total_variation), "mean total variation (0: the same, 1: nothing in common)"],
      [numberOf(told.kl_ab), "nats KL(A || B)"],
      [numberOf(told.kl_ba), "nats KL(B || A)"],
    ];
    const only = SIDES.filter((side) => images[`only_${side}`]).map((side) => el("div", {},
      `${count(images[`only_${side}`])} in ${side.toUpperCase()} alone, first `, el("code", {}, images[`first_only_${side}`])));
    const left = [["unlabelled", "without labels in one of them"], ["other_crops", "of other crops"]]
      .filter(([name]) => images[name]).map(([name, words]) => `${count(images[name])} ${words}`);
    page.section("summary", "In short",
      page.figures(tiles.filter(Boolean)),
      page.facts([
        ...SIDES.map((side) => [side.toUpperCase(), store(told[side])]),
        ["photos", [el("div", {}, `${count(images.both)} in both`), ...only]],
        left.length ? ["left out", left.join("; ")] : null,
        ["compared", byViews
          ? `${counted(told.crops, "crop")}: ${counted(images.compared, "photo")}, ${counted(told.views.looked_at_a, "view")} each`
          : `${counted(images.compared, "photo")} by the mean over ${count(told.views.looked_at_a)} views in A and ${count(told.views.looked_at_b)} in B`],
        isSample ? ["looked at", `${count(told.views.looked_at_a)} of ${counted(told.views.compared, "view")} of each photo; \u00b1 is half of a 95 % interval`] : null,
        ["bytes", SIDES.map((side) => el("div", {}, `${side.toUpperCase()}: ${page.bytes(told[side].bytes.total)}, `
          + `${missing(told[side].bytes.per_crop) ? "unknown" : decimal(told[side].bytes.per_crop, 2)} a crop`))],
        ["photos here", picturesInWords(data.pictures)],
      ].filter(Boolean)));
  }

  function store({members, classes: total, views: number}) {
    return members.map((member) => [
      el("div", {}, el("code", {}, member.path), members.length > 1 ? ` (weight ${Number(member.weight.toPrecision(3))})` : ""),
      el("div", {class: "quiet"}, `${member.teachers.join(", ") || "unknown teacher"}${member.operation ? ` (${member.operation})` : ""}: `
        + `top ${member.k} of ${counted(total, "class")}, type ${member.label_type}, `
        + `temperature ${missing(member.temperature) ? "unknown" : member.temperature}, ${member.quantizer}, ${counted(number, "view")}`),
    ]);
  }

  function picturesInWords(pictures) {
    if (!pictures) return "none: labelstore compare --report with --photos SOURCE shows them";
    const lines = [`${counted(pictures.shown, "picture")} from ${pictures.source}, ${page.bytes(pictures.bytes)} of at most ${page.bytes(pictures.limit_bytes)}`];
    if (pictures.left_out) lines.push(`${counted(pictures.left_out, "picture")} left out for want of room`);
    if (pictures.different) lines.push(`${counted(pictures.different, "photo")} not shown: not the file that was labelled (its digest or size differs)`);
    if (pictures.missing) lines.push(`${counted(pictures.missing, "photo")} not shown: not in the source`);
    if (pictures.unreadable) lines.push(`${counted(pictures.unreadable, "photo")} not shown: cannot be read`);
    return lines.map((line) => el("div", {}, line));
  }

  function confidence() {
    const {edges, counts} = told.confidence;
    const cells = counts.flatMap((row, x) => row.map((crops, y) => ({x1: edges[x], x2: edges[x + 1], y1: edges[y], y2: edges[y + 1], crops})))
      .filter((cell) => cell.crops);
    const most = d3.max(cells, (cell) => cell.crops);
    const words = (cell) => `${counted(cell.crops, noun)}: A ${cell.x1} to ${cell.x2}, B ${cell.y1} to ${cell.y2}`;
    page.section("confidence", "How sure both are",
      el("p", {}, `Mean confidence, the largest probability of a label: A ${numberOf(told.confidence.a)}, B ${numberOf(told.confidence.b)}. `
        + "Above the line B is surer of the same " + noun + ", below it A."),
      el("div", {class: "side"},
        page.figure((width) => page.plot({
          width: Math.min(width, 480), height: Math.min(width, 480), marginLeft: 44, marginRight: 12, marginTop: 26,
          x: {domain: [0, 1], label: "confidence of A", ticks: 5},
          y: {domain: [0, 1], label: "confidence of B", ticks: 5},
          // Few beside many are seen by the root of their number.
          opacity: {type: "sqrt", domain: [0, most], range: [0.12, 1]},
          marks: [
            Plot.rect(cells, {x1: "x1", x2: "x2", y1: "y1", y2: "y2", fill: "var(--accent)", fillOpacity: "crops", inset: 0.5}),
            Plot.line([[0, 0], [1, 1]], {stroke: "currentColor", strokeDasharray: "4,3"}),
            Plot.frame({stroke: "var(--line)"}),
            Plot.tip(cells, Plot.pointer({x: (cell) => (cell.x1 + cell.x2) / 2, y: (cell) => (cell.y1 + cell.y2) / 2, title: words})),
          ],
        }), {id: "scatter", label: `Heat map of the confidence of A and of B over ${counted(told.crops, noun)}`,
          caption: `The stronger the colour, the more ${noun}s: up to ${count(most)} in a cell of 0.05.`}),
        page.figure((width) => page.plot({
          width: Math.min(width, 480), height: 300, marginLeft: 48, marginRight: 12, marginTop: 26,
          x: {domain: [0, 1], label: `total variation of a ${noun}`, ticks: 5},
          y: {label: `${noun}s`, grid: true, ticks: 5, tickFormat: "~s"},
          marks: [
            Plot.rectY(told.total_variation.histogram, {x1: "low", x2: "high", y: "count", fill: "var(--bar)", insetLeft: 0.5, insetRight: 0.5,
              title: (bin) => `${counted(bin.count, noun)}: ${bin.low} to ${bin.high}`}),
            Plot.ruleY([0]),
          ],
        }), {id: "variation", label: `Histogram of the total variation of ${counted(told.crops, noun)}`,
          caption: `How far apart the two labels of a ${noun} are: 0 where they are the same, 1 where they have nothing in common.`})));
  }

  function distances() {
    const kinds = [["kl_ab", "KL(A || B)"], ["kl_ba", "KL(B || A)"], ["total_variation", "total variation"]];
    const rows = [
      ["mean", ...kinds.map(([name]) => told[name])],
      ...told.kl_ab.quantiles.map(({share: part}, place) => [`${share(part, 0)} at most`,
        ...kinds.map(([name]) => { const {value, error} = told[name].quantiles[place]; return {mean: value, error}; })]),
    ];
    page.section("distances", "How far apart",
      el("p", {}, `KL in nats, total variation 0 to 1, of each ${noun}; "10% at most" is the distance that a tenth of the ${noun}s do not exceed.`),
      page.table({label: "Distances", sorts: false, noun: "line", rows, columns: [
        {label: "", value: ([words]) => words},
        ...kinds.map(([, words], place) => ({label: words, numeric: true, value: (row) => row[place + 1].mean, cell: (row) => numberOf(row[place + 1], 4)})),
      ]}));
  }

  function truth() {
    const {truth: right, agreement: {n}} = told;
    if (right === null) return;
    page.section("truth", "Agreement with the ground truth",
      el("p", {}, `Of ${byViews ? `${counted(right.crops, "crop")} of ` : ""}${counted(right.images, "photo")} whose ground truth is known.`),
      page.table({label: "Agreement with the ground truth", sorts: false, noun: "line", rows: [
        ...SIDES.map((side) => [`${side.toUpperCase()} is right (top-1)`, right[side].top1]),
        ...(n > 1 ? SIDES.map((side) => [`${side.toUpperCase()} has it among its ${n} largest`, right[side].top_n]) : []),
        ["both are right", right.both], ["A alone is right", right.only_a], ["B alone is right", right.only_b], ["neither is right", right.neither],
      ], columns: [
        {label: "", value: ([words]) => words},
        {label: `share of ${noun}s`, numeric: true, value: ([, estimate]) => estimate.mean, cell: ([, estimate]) => shareOf(estimate)},
      ]}));
  }

  function views() {
    if (!told.largest_views.length) return;
    page.section("views", "The views that differ most",
      el("p", {}, "By total variation. The bars are the largest classes of each recovered label; the ground truth is in bold."),
      differing(told.largest_views, "No view differs."));
  }

  function photos() {
    if (!told.largest_images.length) return;
    page.section("images", "The photos that differ most",
      el("p", {}, byViews ? "By the mean total variation over their views. The bars are the mean label of each photo." : "By the total variation of their mean labels, which the bars show."),
      differing(told.largest_images, "No photo differs."));
  }

  /* What differs at all: the farthest apart may be the same. */
  function differing(entries, none) {
    const apart = entries.filter((found) => found.total_variation > 0);
    return apart.length ? el("ul", {class: "pairs"}, apart.map(entry)) : el("p", {class: "quiet"}, none);
  }

  function entry(found) {
    const isView = "view" in found;
    const facts = [`total variation ${decimal(found.total_variation)}`, `KL ${decimal(found.kl_ab)} and ${decimal(found.kl_ba)} nats`];
    if (!missing(found.agreement)) facts.push(`the largest class agrees in ${share(found.agreement, 1)} of views`);
    const alt = isView ? `view ${found.view} of ${found.key}` : found.key;
    return el("li", {class: found.picture ? "drawn" : null},
      el("p", {}, el("span", {class: "key"}, found.key), isView ? `, view ${found.view}` : ""),
      el("p", {class: "quiet"}, facts.join("; ")),
      missing(found.target) ? null : el("p", {class: "quiet"}, `ground truth: ${className(found.target)}`),
      el("div", {class: "look"},
        found.picture && el("img", {src: found.picture, alt, decoding: "async"}),
        el("div", {class: "both"}, SIDES.map((side) => el("div", {},
          el("h4", {}, side.toUpperCase()),
          page.bars(found[side].map(({class: number, probability}) =>
            ({name: shortName(number), value: probability, truth: number === found.target}))))))));
  }

  function classes() {
    const columns = told.classes;
    const rows = d3.range((columns.class || []).length);
    if (!rows.length) return;
    const at = (name) => (row) => columns[name][row];
    const known = told.truth !== null;
    const column = (label, name, write, title) => ({label, numeric: true, title, value: at(name), cell: (row) => (missing(columns[name][row]) ? "" : write(columns[name][row]))});
    page.section("classes", "By class",
      el("p", {}, known
        ? `Crops by their ground truth, and how often each class is the largest of a label in A, in B and in both.`
        : `The ground truth is unknown: how often each class is the largest of a label.`),
      page.table({label: "Classes", noun: "class", rows, search: (row) => className(columns.class[row]),
        sort: known ? [4, true] : [1, true],
        columns: [
          {label: "class", value: (row) => shortName(columns.class[row]), cell: (row) => className(columns.class[row])},
          ...(known ? [
            column("photos", "images", count, "photos whose ground truth it is"),
            column(`${noun}s`, "crops", count),
            column("same largest class", "agreement", (value) => share(value, 1), `share of these ${noun}s`),
            column("total variation", "total_variation", decimal, `mean over these ${noun}s`),
            column("A right", "truth_a", (value) => share(value, 1)),
            column("B right", "truth_b", (value) => share(value, 1)),
          ] : []),
          column("largest in A", "largest_a", count, `${noun}s of any photo`),
          column("largest in B", "largest_b", count, `${noun}s of any photo`),
          column("in both", "largest_both", count, `${noun}s of any photo`),
        ]}));
  }

  function pairs() {
    if (!told.pairs.length) return;
    page.section("pairs", "What each says where they differ",
      page.table({label: "Pairs of classes", noun: "pair", rows: told.pairs, search: (pair) => `${className(pair.a)} ${className(pair.b)}`, sort: [2, true],
        columns: [
          {label: "A says", value: (pair) => shortName(pair.a), cell: (pair) => className(pair.a)},
          {label: "B says", value: (pair) => shortName(pair.b), cell: (pair) => className(pair.b)},
          {label: `${noun}s`, numeric: true, value: (pair) => pair.crops, cell: (pair) => count(pair.crops)},
          {label: "share", numeric: true, value: (pair) => pair.share, cell: (pair) => share(pair.share)},
        ]}));
  }

  function decisions() {
    const {ferkd} = told;
    if (ferkd === null) return;
    const found = new Map(ferkd.decisions.map((part) => [`${part.a} ${part.b}`, part]));
    const looksAt = ferkd.confidence === "max" ? "largest probability" : "ground truth's probability";
    page.section("ferkd", "What FerKD does with both",
      el("p", {}, `By the ${looksAt}, with ${ferkd.by_class === null ? "" : `thresholds of their own for ${ferkd.by_class.classes.length} classes, and for the others `}low ${ferkd.low}, middle ${ferkd.middle} and top ${ferkd.top}: A's decision in the rows, B's in the columns.`),
      page.scroll("FerKD's decisions", el("table", {"aria-label": "FerKD's decisions"},
        el("thead", {}, el("tr", {}, el("th", {scope: "col"}, "in A"), DECISIONS.map(([, words]) => el("th", {scope: "col", class: "number"}, `B ${words}`)))),
        el("tbody", {}, DECISIONS.map(([ofA, words]) => el("tr", {}, el("th", {scope: "row"}, words),
          DECISIONS.map(([ofB]) => { const part = found.get(`${ofA} ${ofB}`);
            return el("td", {class: ofA === ofB ? "cell same" : "cell"}, `${count(part.count)} (${share(part.share, 1)})`); })))))));
  }
})();
