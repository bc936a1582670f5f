// Browsers start no worker for a page that was opened from a folder. There the script of the search
// runs in a hidden frame instead, so that the search needs no server. This is all of `Worker` that
// the theme asks for.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.srcdoc = `<script src="${new URL(address, location.href).href}"></script>`;
      this.inside = new Promise((ready) => {
        frame.addEventListener("load", () => {
          const answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          frame.contentWindow.postMessage = answer;
          ready(frame.contentWindow);
        });
      });
      document.body.append(frame);
    }

    postMessage(data) {
      this.inside.then((frame) => frame.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
