// Keeps the files of a page made by `python -m tasks.<task> page`, so that it works offline.
// The next two lines are filled in when the page is written; a page written anew has another version, and replaces this one.
const VERSION = '';
const FILES = [];

const START = `page ${new URL(self.registration.scope).pathname} `; // other pages of this server keep theirs
const NAME = START + VERSION;

addEventListener("install", (event) => {
  const requests = FILES.map((name) => new Request(name || "./", { cache: "reload" }));
  event.waitUntil(caches.open(NAME).then((cache) => cache.addAll(requests)).then(() => skipWaiting()));
});

addEventListener("activate", (event) => {
  const old = caches.keys().then((names) => names.filter((name) => name.startsWith(START) && name !== NAME));
  event.waitUntil(old.then((names) => Promise.all(names.map((name) => caches.delete(name)))).then(() => clients.claim()));
});

// The server comes first, as another site may be served at this address one day, or a newer page.
addEventListener("fetch", (event) => {
  if (event.request.method !== "GET" || new URL(event.request.url).origin !== location.origin) return;
  const kept = () => caches.match(event.request, { cacheName: NAME, ignoreSearch: true, ignoreVary: true });
  const asked = event.request.mode === "navigate" ? {} : { cache: "no-cache" }; // files of one version
  event.respondWith(fetch(event.request, asked).catch(async (error) => (await kept()) || Promise.reject(error)));
});
