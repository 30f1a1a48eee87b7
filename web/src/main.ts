import { mount } from 'svelte';
import App from './App.svelte';
import './app.css';

// The engine was upgraded under an open page: its parts have other names now.
window.addEventListener('vite:preloadError', () => location.reload());

// Without its style sheet (a connection that broke) the page is no page: once more, a few times.
const TRIES = 'berth.tries';
const bare = [...document.querySelectorAll<HTMLLinkElement>('link[rel=stylesheet]')].some((link) => !link.sheet);
const tries = Number(sessionStorage.getItem(TRIES) ?? 0);
if (bare && tries < 3) {
  sessionStorage.setItem(TRIES, String(tries + 1));
  location.reload();
} else sessionStorage.removeItem(TRIES);

const target = document.getElementById('app');
if (target) mount(App, { target });
