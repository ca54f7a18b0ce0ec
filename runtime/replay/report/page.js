"use strict";
(() => {
  const PALETTES = {
    light: {
      page: "#fbfbfa", ink: "#1f2023", muted: "#6a6c72", faint: "#b4b5ba", line: "#e9e9e6", gap: "rgba(120,120,125,0.13)",
      calm: "#cfe3dc", blue: "#0072b2", orange: "#e69f00", green: "#009e73", purple: "#b0609a", sky: "#56b4e9", red: "#d55e00",
      heat0: "#f3f5f6", heat1: "#cfe1ee", heat2: "#5a9cc9", heat3: "#0b3a63",
      mask: "#f0b43c", mask0: "#fbeccb", gate: "#b0609a", gate0: "#ecd9e6",
    },
    dark: {
      page: "#151618", ink: "#e6e7e9", muted: "#9a9ca3", faint: "#5d5f66", line: "#2b2d31", gap: "rgba(160,160,170,0.13)",
      calm: "#27463d", blue: "#4aa3df", orange: "#e6a72b", green: "#2bb78d", purple: "#d48dc0", sky: "#7cc6f2", red: "#f0763b",
      heat0: "#1d1f22", heat1: "#1f3547", heat2: "#3a86bd", heat3: "#d4ecff",
      mask: "#c08a1f", mask0: "#3d3218", gate: "#b57aa4", gate0: "#3a2a36",
    },
  };
  const MARGIN_S = 1.5;  // shown on both sides of a moment
  const root = document.documentElement;
  const figures = {};  // unpacked when they are first shown
  let shown = null;

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  /* A figure with the colours of the theme, and the time axis in place of its name. */
  function themed(figure) {
    const palette = PALETTES[root.dataset.theme];
    const filled = (value) => {
      if (value === "$time") return figure.time;
      if (value === "$edges") return figure.edges;
      if (typeof value === "string") return value.replace(/\$([a-z]+\d?)/g, (all, name) => palette[name] ?? all);
      if (Array.isArray(value)) return value.every((v) => v === null || typeof v === "number") ? value : value.map(filled);
      if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, filled(v)]));
      return value;
    };
    const axis = { gridcolor: palette.line, linecolor: palette.line, zeroline: false, tickcolor: palette.line, automargin: false };
    const layout = filled(figure.layout);
    for (const key of Object.keys(layout)) if (/^[xy]axis/.test(key)) layout[key] = { ...axis, ...layout[key] };
    Object.assign(layout.xaxis, { showspikes: true, spikemode: "across", spikesnap: "cursor", spikethickness: 1, spikedash: "solid", spikecolor: palette.faint });
    for (const note of layout.annotations) note.font = { size: 12, color: palette.ink, ...note.font };
    return {
      data: filled(figure.data),
      layout: {
        ...layout, showlegend: false, hovermode: "x", hoversubplots: "axis", hoverdistance: 30, dragmode: "zoom",
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: getComputedStyle(document.body).fontFamily, size: 11, color: palette.muted },
        hoverlabel: { bgcolor: palette.page, bordercolor: palette.line, font: { color: palette.ink, size: 12 } },
      },
    };
  }

  const plotOf = (view) => view.querySelector(".figure");

  async function draw(view) {
    const figure = figures[view.id] ??= JSON.parse(await unpack(`figure-${view.id}`)), plot = plotOf(view);
    const before = plot.layout?.xaxis.range.slice();
    const { data, layout } = themed(figure);
    if (before) layout.xaxis.range = before;
    if (plot.cursor) layout.shapes.push(cursor(plot.cursor));
    await Plotly.react(plot, data, layout, { displayModeBar: false, responsive: true });
    if (!plot.ready) {
      plot.ready = true;
      plot.on("plotly_relayout", () => window_(view));
      plot.on("plotly_doubleclick", () => { zoom(view, figure.span); return false; });
    }
    choose(view, view.querySelector(".joint").value);
    window_(view);
    view.dataset.drawn = root.dataset.theme;
  }

  function window_(view) {
    const [a, b] = plotOf(view).layout.xaxis.range;
    view.querySelector(".window").textContent = `${a.toFixed(2)} – ${b.toFixed(2)} s`;
  }

  const zoom = (view, range) => Plotly.relayout(plotOf(view), { "xaxis.range": range.slice(), "xaxis.autorange": false });

  const cursor = (time) => ({
    type: "line", name: "cursor", xref: "x", x0: time, x1: time, yref: "paper", y0: 0, y1: 1,
    line: { color: PALETTES[root.dataset.theme].ink, width: 1, dash: "dot" },
  });

  /* To a moment: a window around it, and a line through all panels. */
  function jump(view, time) {
    const plot = plotOf(view);
    plot.cursor = time;
    const shapes = plot.layout.shapes.filter((s) => s.name !== "cursor").concat(cursor(time));
    Plotly.relayout(plot, { shapes, "xaxis.range": [time - MARGIN_S, time + MARGIN_S], "xaxis.autorange": false });
    history.replaceState(null, "", `#${view.id}@${time}`);
    view.querySelector(".course").scrollIntoView({ behavior: "instant", block: "start" });
  }

  function step(view, direction) {
    const [a, b] = plotOf(view).layout.xaxis.range, width = (b - a) * 0.8 * direction;
    zoom(view, [a + width, b + width]);
  }

  function choose(view, joint) {
    const plot = plotOf(view), select = view.querySelector(".joint");
    select.value = joint;
    for (const row of view.querySelectorAll("tr[data-joint]")) row.classList.toggle("on", row.dataset.joint === joint && !row.classList.contains("moment"));
    const own = plot.data.map((t, i) => [t, i]).filter(([t]) => t.meta?.joint);
    Plotly.restyle(plot, { visible: own.map(([t]) => t.meta.joint === joint) }, own.map(([, i]) => i));
  }

  async function show(id) {
    const view = document.getElementById(id);
    if (!view) return;
    for (const other of document.querySelectorAll(".view")) other.hidden = other !== view;
    for (const link of document.querySelectorAll(".summary [data-view]")) link.classList.toggle("on", link.dataset.view === id);
    shown = view;
    await draw(view);
  }

  function filter(view, chip) {
    for (const other of view.querySelectorAll(".chips .chip")) other.classList.toggle("on", other === chip);
    for (const row of view.querySelectorAll(".events tbody tr")) row.hidden = chip.dataset.kind !== "" && row.dataset.kind !== chip.dataset.kind;
  }

  async function act(target) {
    const view = target.closest(".view"), chip = target.closest(".chips .chip"), link = target.closest("[data-view]");
    const time = target.closest("[data-time]"), row = target.closest("tr[data-joint]");
    if (target.closest("#theme")) {
      root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
      await draw(shown);
    } else if (link) {
      history.replaceState(null, "", `#${link.dataset.view}`);
      await show(link.dataset.view);
    } else if (chip) filter(view, chip);
    else if (target.closest(".all")) zoom(view, figures[view.id].span);
    else if (target.closest(".earlier")) step(view, -1);
    else if (target.closest(".later")) step(view, 1);
    else if (time) {
      if (row) choose(view, row.dataset.joint);
      jump(view, Number(time.dataset.time));
    } else if (row) choose(view, row.dataset.joint);
  }

  async function start() {
    root.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    document.addEventListener("click", (event) => act(event.target));
    document.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target.matches("tr")) act(event.target); });
    document.addEventListener("change", (event) => { if (event.target.matches(".joint")) choose(event.target.closest(".view"), event.target.value); });
    const script = document.createElement("script");
    script.textContent = await unpack("plotly");
    document.head.append(script);
    const [id, time] = decodeURIComponent(location.hash.slice(1)).split("@");
    const first = document.getElementById(id)?.matches(".view") ? id : document.querySelector(".view")?.id;
    if (first) await show(first);
    if (first && time) jump(shown, Number(time));
    root.dataset.ready = "yes";
  }

  start();
})();
