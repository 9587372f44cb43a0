// Two small charts: the latency of changes, and the traffic of one peer.

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function fitted(canvas) {
  const { width: w, height: h } = canvas.getBoundingClientRect(), dpr = Math.min(devicePixelRatio || 1, 2);
  if (!w) return null;
  if (canvas.width !== Math.round(w * dpr) || canvas.height !== Math.round(h * dpr)) { canvas.width = Math.round(w * dpr); canvas.height = Math.round(h * dpr); }
  const g = canvas.getContext("2d");
  g.setTransform(dpr, 0, 0, dpr, 0, 0);
  g.clearRect(0, 0, w, h);
  const em = parseFloat(getComputedStyle(document.documentElement).fontSize) / 15;
  g.font = `${11.5 * em}px system-ui, "DejaVu Sans", sans-serif`;
  return { g, w, h, em };
}

/** Draw the latest changes in order, by latency on a logarithmic scale from 0.1 ms to 1 s, with reorgs as lines. */
export function strip(canvas, events) {
  const fit = fitted(canvas);
  if (!fit) return;
  const { g, w, h, em } = fit, left = 52 * em, right = w - 16, top = 10, bottom = h - 8;
  const y = (ms) => bottom - ((Math.log10(Math.min(Math.max(ms, 0.1), 1000)) + 1) / 4) * (bottom - top);
  g.textAlign = "right";
  for (const [ms, text] of [[0.1, "0.1 ms"], [1, "1 ms"], [10, "10 ms"], [100, "0.1 s"], [1000, "1 s"]]) {
    g.globalAlpha = 0.8; g.strokeStyle = colour("line"); g.beginPath(); g.moveTo(left, y(ms)); g.lineTo(right, y(ms)); g.stroke();
    g.globalAlpha = 1; g.fillStyle = colour("dim"); g.fillText(text, left - 8, y(ms) + 4);
  }
  const shown = events.filter((event) => event.latency_ms !== undefined && event.latency_ms !== null || event.kind === "chain.reorg").slice(0, 80).reverse();
  const step = (right - left) / Math.max(shown.length, 24);
  shown.forEach((event, index) => {
    const x = right - (shown.length - index - 0.5) * step;
    if (event.kind === "chain.reorg") {
      g.strokeStyle = colour("warn"); g.lineWidth = 2; g.setLineDash([4, 3]); g.beginPath(); g.moveTo(x, top); g.lineTo(x, bottom); g.stroke(); g.setLineDash([]); g.lineWidth = 1;
      return;
    }
    g.fillStyle = g.strokeStyle = colour(event.kind === "peer.removed" ? "bad" : "good");
    g.globalAlpha = 0.35; g.beginPath(); g.moveTo(x, bottom); g.lineTo(x, y(event.latency_ms)); g.stroke();
    g.globalAlpha = 1; g.beginPath(); g.arc(x, y(event.latency_ms), em * Math.min(4, Math.max(2.2, step / 2.4)), 0, 2 * Math.PI); g.fill();
  });
  const took = shown.filter((event) => event.latency_ms).map((event) => event.latency_ms);
  canvas.setAttribute("aria-label", took.length ? `Latency of the latest ${took.length} changes: from ${Math.min(...took).toFixed(1)} to ${Math.max(...took).toFixed(1)} ms` : "Latency of the latest changes: none yet");
  if (!took.length) { g.textAlign = "center"; g.fillStyle = colour("dim"); g.fillText("no change since the daemon started", (left + right) / 2, (top + bottom) / 2 + 4); }
}

/** Draw the bytes per second, in and out, of the last samples. */
export function spark(canvas, samples, names) {
  const fit = fitted(canvas);
  if (!fit) return;
  const { g, w, h, em } = fit, left = 16, right = w - 16, top = 24 * em, bottom = h - 12;
  const most = Math.max(1, ...samples.flatMap((sample) => [sample.down, sample.up]));
  for (const [what, name] of [["down", "accent"], ["up", "tls"]]) {
    g.strokeStyle = g.fillStyle = colour(name);
    g.beginPath();
    samples.forEach((sample, index) => {
      const x = right - (samples.length - 1 - index) * ((right - left) / Math.max(samples.length - 1, 29));
      const y = bottom - (sample[what] / most) * (bottom - top);
      if (index) g.lineTo(x, y); else g.moveTo(x, y);
    });
    g.lineWidth = 2; g.lineJoin = "round"; g.stroke();
  }
  g.strokeStyle = colour("line"); g.lineWidth = 1; g.beginPath(); g.moveTo(left, bottom + 0.5); g.lineTo(right, bottom + 0.5); g.stroke();
  let x = left;
  for (const [text, name] of [[names[0], "accent"], [names[1], "tls"]]) {
    g.fillStyle = colour(name); g.beginPath(); g.arc(x + 5 * em, 11 * em, 4 * em, 0, 2 * Math.PI); g.fill();
    g.fillStyle = colour("dim"); g.fillText(text, x + 14 * em, 15 * em);
    x += g.measureText(text).width + 36 * em;
  }
}
