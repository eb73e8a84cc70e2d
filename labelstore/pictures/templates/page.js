/* What all pages share: the global `page`.

   page.data                      what `render` was given
   page.printable(text)           text on one line; controls and marks of direction are escaped
   page.el(tag, attributes, ...children)
                                  an element; children are elements or text, never markup;
                                  attributes: `class`, `on: {event: function}`, `style: {name: value}`,
                                  others as they are; null, undefined and false leave one out
   page.header(title, ...lines)   the page's head
   page.section(id, title, ...children)
                                  a section, with its line in the contents; returns it
   page.figure(draw, {label, caption, ...})
                                  a chart that follows the width: draw(width) gives an SVG of Plot's
   page.table({...})              a table; see below
   page.facts(rows), page.figures(rows), page.bars(rows), page.scroll(label, child)
   page.count(n), page.counted(n, noun), page.share(p), page.decimal(x), page.bytes(n)
                                  numbers in words; "unknown" for null
   page.confidenceColor(p)        the colour of a confidence, 0 to 1, as a CSS variable
   page.plot(options)             Plot.plot with the settings of all charts
   page.resize(callback)          calls back when the width changes */
"use strict";

const page = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);

  const OBEYED = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]|(?![\u200c\u200d])\p{Cf}/gu;
  const SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"};

  function printable(text) {
    return String(text).replace(OBEYED, (sign) => {
      const code = sign.codePointAt(0);
      if (SHORT[sign]) return SHORT[sign];
      if (code < 0x100) return "\\x" + code.toString(16).padStart(2, "0");
      return code < 0x10000
        ? "\\u" + code.toString(16).padStart(4, "0")
        : "\\U" + code.toString(16).padStart(8, "0");
    });
  }

  const SVG = new Set(["svg", "rect", "g", "line", "circle"]);

  function el(tag, attributes = {}, ...children) {
    const element = SVG.has(tag)
      ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "on") {
        for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
      } else if (name === "style") {
        for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
      } else {
        element.setAttribute(name, value === true ? "" : printable(value));
      }
    }
    fill(element, children);
    return element;
  }

  function fill(element, children) {
    for (const child of children.flat(Infinity)) {
      if (child === null || child === undefined || child === false) continue;
      element.append(child instanceof Node ? child : printable(child));
    }
  }

  function replace(element, ...children) {
    element.replaceChildren();
    fill(element, children);
  }

  /* Numbers. */
  const counts = new Intl.NumberFormat("en-US");
  const missing = (value) => value === null || value === undefined;
  const count = (value) => (missing(value) ? "unknown" : counts.format(value));
  const share = (value, digits = 2) =>
    missing(value) ? "unknown" : (100 * value).toFixed(digits) + "%";
  const decimal = (value, digits = 3) => (missing(value) ? "unknown" : value.toFixed(digits));

  function counted(value, noun) {
    return value === 1 ? `1 ${noun}` : `${count(value)} ${noun}${noun.endsWith("s") ? "es" : "s"}`;
  }

  function bytes(value) {
    if (Math.round(value) < 1000) return counted(Math.round(value), "byte");
    for (const unit of ["kB", "MB", "GB", "TB"]) {
      value /= 1000;
      if (value < 999.5 || unit === "TB") return `${Number(value.toPrecision(3))} ${unit}`;
    }
    return "";
  }

  const confidenceColor = (value) => `var(--c${Math.max(0, Math.min(9, Math.floor(value * 10)))})`;

  /* Parts of a page. */
  function header(title, ...lines) {
    const place = document.getElementById("top");
    place.append(el("h1", {}, title), ...lines.map((line) => el("p", {class: "quiet"}, line)));
  }

  function section(id, title, ...children) {
    const made = el("section", {id, "aria-labelledby": `${id}-title`}, el("h2", {id: `${id}-title`}, title));
    fill(made, children);
    document.getElementById("main").append(made);
    const entry = el("li", {}, el("a", {href: `#${id}`}, title));
    document.querySelector("nav ol").append(entry);
    return made;
  }

  const watched = new Map();
  const watcher = new ResizeObserver((entries) => {
    for (const {target, contentRect} of entries) {
      const known = watched.get(target);
      const width = Math.round(contentRect.width);
      if (known && width > 0 && width !== known.width) {
        known.width = width;
        known.act(width);
      }
    }
  });

  function resize(element, act) {
    watched.set(element, {width: 0, act});
    watcher.observe(element);
  }

  function figure(draw, {label, caption, legend, id} = {}) {
    const chart = el("div", {class: "chart"});
    resize(chart, (width) => {
      const drawn = draw(width);
      const svg = drawn.matches("svg") ? drawn : drawn.querySelector("svg");
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", label);
      chart.replaceChildren(drawn);
    });
    return el("figure", {id}, legend, chart, caption && el("figcaption", {}, caption));
  }

  function plot(options) {
    return Plot.plot({
      height: 300,
      marginLeft: 52,
      marginBottom: 42,
      ...options,
      style: {background: "transparent", overflow: "visible", fontSize: ".75rem", ...options.style},
    });
  }

  function facts(rows) {
    return el("dl", {class: "facts"}, rows.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  }

  function figures(rows) {
    return el("ul", {class: "figures"}, rows.map(([value, words]) =>
      el("li", {}, el("strong", {}, value), el("span", {}, words))));
  }

  /* rows: {name, value (0..1), truth: whether it is the ground truth} */
  function bars(rows) {
    return el("ol", {class: "bars"}, rows.map(({name, value, truth}) =>
      el("li", {class: truth ? "truth" : null, title: truth ? "the ground truth" : null},
        el("span", {}, name), el("span", {}, share(value, 1)),
        el("i", {class: "bar", style: {width: `${100 * value}%`}}))));
  }

  function scroll(label, child) {
    return el("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": label}, child);
  }

  function legend(entries) {
    return el("ul", {class: "legend"}, entries.map(([colour, words]) =>
      el("li", {}, el("span", {class: "swatch", style: {background: colour}}), words)));
  }

  function confidenceLegend(words = "confidence") {
    const steps = [...Array(10).keys()].map((step) => el("i", {style: {background: `var(--c${step})`}}));
    return el("p", {class: "quiet"}, `${words} 0`, el("span", {class: "ramp"}, steps), "1");
  }

  /* A table.
     columns: {label, value(row): what it is sorted by, cell(row): what stands there (value's text
              without it), numeric, title, sorts: false for a column without a button}
     rows: any; search(row): the text that is searched, where there is a box for it;
     noun: what a row is; pageRows: how many stand there at a time; sort: [column, descending] */
  function table({label, columns, rows, search, noun = "row", pageRows = 25, sort = null, sorts = true}) {
    let [by, descending] = sort || [-1, false];
    let chosen = rows;
    let first = 0;
    const body = el("tbody");
    const heads = columns.map((column, number) => {
      const words = sorts && column.sorts !== false
        ? el("button", {type: "button", on: {click: () => order(number)}}, column.label)
        : column.label;
      return el("th", {scope: "col", class: column.numeric ? "number" : null, title: column.title}, words);
    });
    const state = el("span", {role: "status", class: "quiet"});
    const earlier = el("button", {type: "button", class: "button", on: {click: () => turn(-1)}}, "Previous");
    const later = el("button", {type: "button", class: "button", on: {click: () => turn(1)}}, "Next");
    const box = search && el("input", {type: "search", "aria-label": `Search: ${label}`,
      placeholder: "Search", on: {input: choose}});

    function order(number) {
      descending = by === number ? !descending : Boolean(columns[number].numeric);
      by = number;
      first = 0;
      choose();
    }
    function turn(step) {
      first = Math.max(0, first + step * pageRows);
      draw();
    }
    function choose(event) {
      if (event) first = 0;
      const words = box ? box.value.toLowerCase().split(/\s+/).filter(Boolean) : [];
      chosen = words.length
        ? rows.filter((row) => { const text = search(row).toLowerCase(); return words.every((word) => text.includes(word)); })
        : rows.slice();
      if (by >= 0) {
        const value = columns[by].value;
        const sign = descending ? -1 : 1;
        chosen.sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          // What is unknown stands last, whichever way.
          if (missing(x) || missing(y)) return missing(x) - missing(y);
          return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
        });
      }
      draw();
    }
    function draw() {
      const last = Math.min(first + pageRows, chosen.length);
      replace(body, chosen.slice(first, last).map((row) => el("tr", {}, columns.map((column) =>
        el("td", {class: column.numeric ? "number" : null}, column.cell ? column.cell(row) : String(column.value(row)))))));
      heads.forEach((head, number) => {
        if (number === by) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      const of = chosen.length < rows.length ? `${counted(chosen.length, noun)} of ${count(rows.length)}` : counted(chosen.length, noun);
      state.textContent = chosen.length > pageRows ? `${count(first + 1)} to ${count(last)} of ${of}` : of;
      earlier.disabled = first === 0;
      later.disabled = last >= chosen.length;
    }

    const many = rows.length > pageRows;
    const made = el("div", {},
      (search || many) && el("div", {class: "tools"}, rows.length > 1 && box, state, many && earlier, many && later),
      scroll(label, el("table", {"aria-label": label}, el("thead", {}, el("tr", {}, heads)), body)));
    choose();
    return made;
  }

  /* The contents are open where they stand beside the page, and closed above it. */
  const wide = matchMedia("(min-width: 70rem)");
  const contents = document.querySelector("nav details");
  const open = () => { contents.open = wide.matches; };
  wide.addEventListener("change", open);
  open();

  return {data, printable, el, fill, replace, header, section, figure, plot, resize, facts, figures,
    bars, scroll, legend, confidenceLegend, table, count, counted, share, decimal, bytes, missing,
    confidenceColor};
})();
