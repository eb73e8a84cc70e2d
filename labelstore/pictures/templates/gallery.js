/* Of the page `report`: photos with their boxes, and their hardest and easiest crops (Figure 9). */
"use strict";

page.gallery = ({data, names, className, suspects}) => {
  const {el, missing, share, decimal} = page;
  const {report, pictures} = data;
  const {store} = report;

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
      + (pictures ? "" : " Photos are shown with --photos SOURCE.")),
    page.confidenceLegend("box and frame: confidence"),
    ...shown.map((image) => article(image, why.get(image.image) || [])));
  if (others.length) {
    made.append(el("h3", {}, "Other photos that this page names"),
      el("ul", {class: "photos"}, others.map((image) => el("li", {id: `photo-${image.image}`},
        image.picture && el("img", {src: image.picture, alt: "", decoding: "async"}),
        el("p", {class: "key"}, image.key), el("p", {}, targetOf(image)),
        el("p", {class: "quiet"}, (why.get(image.image) || []).join("; "))))));
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
    suspects.forEach((entry) => add(entry.image, `its ground truth may be wrong: rather ${className(entry.suggested)}`));
    report.confusion.forEach((pair) => pair.images.filter((entry) => entry.share >= 0.01).forEach((entry) =>
      add(entry.image, `${share(entry.share, 1)} of its mass goes to ${className(pair.predicted)}`)));
    return found;
  }

  function targetOf(image) {
    return missing(image.target) ? "ground truth unknown" : `ground truth: ${className(image.target)}`;
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
    // A small photo as large as others, or its boxes could not be told apart.
    const scaled = image.width && {width: `${16 * image.width / Math.max(image.width, image.height)}rem`};
    return el("div", {class: "boxed"},
      image.picture ? el("img", {src: image.picture, alt: image.key, decoding: "async", style: scaled || {}})
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
};
