// The pages of the side bar.

import type { Role } from './api';

export interface Page { to: string; name: string; icon: string; role: Role; /** Pressed after g. */ key: string; /** Not for members of projects only. */ everywhere?: boolean }

export const PAGES: Page[] = [
  { to: '/', key: 'o', name: 'Overview', icon: 'overview', role: 'viewer' },
  { to: '/instances', key: 'i', name: 'Instances', icon: 'box', role: 'viewer' },
  { to: '/stacks', key: 's', name: 'Stacks', icon: 'stack', role: 'viewer' },
  { to: '/images', key: 'm', name: 'Images', icon: 'layers', role: 'viewer' },
  { to: '/builds', key: 'b', name: 'Builds', icon: 'hammer', role: 'viewer', everywhere: true },
  { to: '/templates', key: 't', name: 'Templates', icon: 'copy', role: 'viewer' },
  { to: '/volumes', key: 'v', name: 'Volumes', icon: 'disk', role: 'viewer' },
  { to: '/networks', key: 'n', name: 'Networks', icon: 'net', role: 'viewer' },
  { to: '/activity', key: 'a', name: 'Activity', icon: 'activity', role: 'viewer' },
  { to: '/projects', key: 'p', name: 'Projects', icon: 'project', role: 'member' },
  { to: '/people', key: 'u', name: 'Access', icon: 'people', role: 'member' },
  { to: '/hosts', key: 'h', name: 'Hosts', icon: 'hosts', role: 'viewer', everywhere: true },
  { to: '/settings', key: 'e', name: 'This host', icon: 'gear', role: 'viewer', everywhere: true },
];
