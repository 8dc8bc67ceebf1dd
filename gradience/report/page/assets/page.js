// Draws the plots in the colours of the page, and switches between light and dark. Data come as JSON, never as code.
(function () {
  "use strict";
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const data = document.getElementById("plots");
  const plots = data ? JSON.parse(data.textContent) : [];
  const places = Array.from(document.querySelectorAll("[data-plot]"));
  const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 500px)");
  const touch = window.matchMedia("(pointer: coarse)");

  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : wantsDark.matches;
  }

  function colours(layout) {
    const style = getComputedStyle(root);
    const text = style.getPropertyValue("--text").trim();
    const line = style.getPropertyValue("--line").trim();
    const look = Object.assign({}, layout, {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: text, size: 12, family: getComputedStyle(document.body).fontFamily },
      dragmode: touch.matches ? false : "zoom",
      autosize: true,
    });
    for (const axis of ["xaxis", "yaxis"]) {
      look[axis] = Object.assign({}, layout[axis], { gridcolor: line, linecolor: line, tickcolor: line });
    }
    look.annotations = layout.annotations.map((label) =>
      Object.assign({}, label, { bgcolor: style.getPropertyValue("--card").trim() }));
    if (narrow.matches) look.margin = Object.assign({}, layout.margin, { l: 44, r: 8 });
    return look;
  }

  function draw(place) {
    const plot = plots[Number(place.dataset.plot)];
    if (narrow.matches) {
      for (const trace of plot.data) {
        if (trace.colorbar) {
          trace.colorbar = Object.assign({}, trace.colorbar, { orientation: "h", y: 1.02, yanchor: "bottom", thickness: 8 });
        }
      }
    }
    return Plotly.react(place, plot.data, colours(plot.layout), { displayModeBar: false, responsive: true });
  }

  function drawAll() {
    return Promise.all(places.map(draw)).then(() => { root.dataset.drawn = String(places.length); });
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

  // Paper is white, and narrower than most screens.
  let before;
  window.addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    for (const place of places) {
      Plotly.relayout(place, Object.assign(colours(plots[Number(place.dataset.plot)].layout), { width: 640, autosize: false }));
    }
  });
  window.addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before; else delete root.dataset.theme;
    for (const place of places) Plotly.relayout(place, { width: null, autosize: true });
    drawAll();
  });

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
