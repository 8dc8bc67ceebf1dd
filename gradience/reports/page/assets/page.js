// Draws the plots in the colours of the page, and switches between light and dark. Data come as JSON, never as code.
(function () {
  "use strict";
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const data = document.getElementById("plots");
  const plots = data ? JSON.parse(data.textContent) : [];
  const places = Array.from(document.querySelectorAll("[data-plot]"));
  const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)");
  const NARROW = 400, PAPER = 640, LETTER = 6.5, ROW = 20;  // pixels
  const heights = places.map((place) => parseInt(place.style.height, 10));

  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : wantsDark.matches;
  }

  function longest(texts) {
    return texts.reduce((most, text) => Math.max(most, text.length), 0);
  }

  // Every second, third, … name where all of them would lie on each other.
  function thinned(axis, width) {
    const names = axis.ticktext;
    const every = Math.ceil((names.length * LETTER * (longest(names) + 2)) / width);
    const kept = (_, place) => place % every === 0;
    return { tickvals: axis.tickvals.filter(kept), ticktext: names.filter(kept), tickangle: 0 };
  }

  // The legend in columns above the plot, and the pixels that it takes.
  function legendOf(plot, width) {
    const named = plot.data.filter((trace) => trace.showlegend !== false && trace.name);
    const fitting = Math.floor(width / (48 + LETTER * longest(named.map((trace) => trace.name))));
    const columns = Math.max(1, Math.min(named.length, fitting));
    const rows = plot.layout.showlegend ? Math.ceil(named.length / columns) : 0;
    return { rows, look: { entrywidth: 1 / columns, entrywidthmode: "fraction" } };
  }

  // What the page's colours and the width make of a plot. On a phone names of rows stand above their rows.
  function fitted(plot, width, height) {
    const style = getComputedStyle(root);
    const value = (name) => style.getPropertyValue(name).trim();
    const narrow = width < NARROW;
    const x = Object.assign({}, plot.layout.xaxis, plot.layout.xaxis.ticktext ? thinned(plot.layout.xaxis, width - 110) : {});
    const y = Object.assign({}, plot.layout.yaxis);
    const map = plot.data.some((trace) => trace.type === "heatmap");
    let traces = plot.data;
    let margin = plot.layout.margin;
    let names = [];
    if (narrow) {
      margin = Object.assign({}, margin, { l: 44, r: 16 });
      y.title = Object.assign({}, y.title, y.ticktext ? { text: "" } : {});
      x.nticks = 5;
      // no room for the names of points
      traces = traces.map((trace) => (trace.mode === "markers+text" ? Object.assign({}, trace, { mode: "markers" }) : trace));
      if (map) {
        const bar = { orientation: "h", y: 1.02, yanchor: "bottom", thickness: 8 };
        traces = traces.map((trace) => Object.assign({}, trace, { colorbar: Object.assign({}, trace.colorbar, bar) }));
        margin.t = 60;
      } else if (y.ticktext && longest(y.ticktext) > 8) {
        const down = y.autorange === "reversed";
        const last = y.ticktext.length - 1;
        names = y.ticktext.map((text, row) => ({
          text, showarrow: false, xref: "paper", x: 0, xanchor: "left", yref: "y", y: y.tickvals[row], yanchor: "bottom", yshift: 8,
        }));
        Object.assign(y, { showticklabels: false, autorange: false, range: down ? [last + 0.5, -0.8] : [-0.5, last + 0.8] });
        margin.l = 12;
        height += 14 * y.ticktext.length;
      }
    }
    for (const axis of [x, y]) Object.assign(axis, { gridcolor: value("--line"), linecolor: value("--line"), tickcolor: value("--line"), tickfont: { color: value("--text") } });
    const beside = y.ticktext && names.length === 0 ? LETTER * longest(y.ticktext) + 24 : 0;
    const legend = legendOf(plot, width - Math.max(margin.l, beside) - margin.r);
    height += ROW * legend.rows;
    const layout = Object.assign({}, plot.layout, {
      xaxis: x, yaxis: y, margin, width, height, autosize: false,
      legend: Object.assign({}, plot.layout.legend, legend.look),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: value("--text"), size: 12, family: getComputedStyle(document.body).fontFamily },
      dragmode: touch.matches ? false : "zoom",
      annotations: plot.layout.annotations.concat(names).map((label) => Object.assign({}, label, { bgcolor: value("--card") })),
    });
    return { traces, layout };
  }

  function draw(place, width) {
    const plot = plots[places.indexOf(place)];
    // Within a folded section a plot has no width until the section is opened.
    const inside = place.parentElement.clientWidth;
    if (inside) place.dataset.sized = "yes";
    const room = width || Math.max(inside, Number(place.dataset.least)) || NARROW;
    const look = fitted(plot, room, heights[places.indexOf(place)]);
    place.style.height = look.layout.height + "px";
    return Plotly.react(place, look.traces, look.layout, { displayModeBar: false });
  }

  function drawAll(width) {
    return Promise.all(places.map((place) => draw(place, width))).then(() => { root.dataset.drawn = String(places.length); });
  }

  function name() {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
  }

  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
    drawAll();
  });
  wantsDark.addEventListener("change", () => { name(); drawAll(); });
  name();

  let waiting;
  let seen = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === seen) return;
    seen = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(() => drawAll(), 150);
  });

  // The contents stand beside the page; on a phone they are folded away.
  const wide = window.matchMedia("(min-width: 901px)");
  const contents = document.getElementById("contents");
  function besides() { contents.open = wide.matches; }
  wide.addEventListener("change", besides);
  besides();

  // Paper is white, and narrower than most screens.
  let before;
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details.section").forEach((section) => { section.open = true; });
    before = root.dataset.theme;
    root.dataset.theme = "light";
    drawAll(PAPER);
  });
  window.addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before; else delete root.dataset.theme;
    drawAll();
  });

  // A section that is opened has room for its plots.
  document.addEventListener("toggle", (event) => {
    const hidden = (place) => event.target.contains(place) && !place.dataset.sized;
    if (event.target.open) places.filter(hidden).forEach((place) => draw(place));
  }, true);

  // A link to something that is folded away opens it.
  function unfold() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  }
  window.addEventListener("hashchange", unfold);
  unfold();

  // One after the other, so that the text can be read at once.
  let next = 0;
  function step() {
    if (next === places.length) { root.dataset.drawn = String(next); return; }
    draw(places[next++]).then(() => setTimeout(step, 0));
  }
  step();
})();
