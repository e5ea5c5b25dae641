-- nbdev puts a link "source" beside every function, into the repository that settings.ini names as git_url.
-- While that is "." there is no public repository to link to, and the link is left out.
function Link(link)
  if link.target:match('^blob/') then return {} end
end
